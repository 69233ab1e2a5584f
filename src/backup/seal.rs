//! How an archive is closed and opened: age, with recipients or a passphrase, or not at all.

use std::io::{self, Read, Write};
use std::iter;
use std::path::Path;

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};

use super::catalog::Protection;
use crate::error::{Failure, io_failure};

/// age's own default on a fast machine: 2^18 blocks of 1 KiB, which is 256 MiB and a second or so.
const WORK: u8 = 18;
/// What is asked of this machine to open an archive, at most: 4 GiB.
const MOST_WORK: u8 = 22;
/// With these words an age file begins.
const MAGIC: &[u8] = b"age-encryption.org/";
/// And with these one in letters.
const ARMOR: &[u8] = b"-----BEGIN AGE";

/// How a new archive is closed.
pub enum Seal {
    /// Not at all.
    Plaintext,
    /// So that each of these can open it.
    Recipients(Vec<x25519::Recipient>),
    /// So that whoever knows the passphrase can.
    Passphrase(scrypt::Recipient),
}

impl Seal {
    /// To recipients, as `age-keygen -y` prints them.
    ///
    /// # Errors
    /// One is none.
    pub fn to(recipients: &[String]) -> Result<Self, Failure> {
        let read = |text: &String| text.parse().map_err(|why: &str| no_recipient(text, why));
        Ok(Seal::Recipients(recipients.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// With the passphrase in a file: its first line.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    pub fn with_passphrase(file: &Path) -> Result<Self, Failure> {
        let mut recipient = scrypt::Recipient::new(passphrase(file)?);
        recipient.set_work_factor(WORK);
        Ok(Seal::Passphrase(recipient))
    }

    /// Which way it is.
    #[must_use]
    pub fn protection(&self) -> Protection {
        match self {
            Seal::Plaintext => Protection::Plaintext,
            Seal::Recipients(_) => Protection::Recipients,
            Seal::Passphrase(_) => Protection::Passphrase,
        }
    }

    /// Closes what is written from now on.
    pub(super) fn wrap<W: Write>(&self, to: W) -> io::Result<Sealed<W>> {
        let recipients: Vec<&dyn Recipient> = match self {
            Seal::Plaintext => return Ok(Sealed::Plain(to)),
            Seal::Recipients(recipients) => recipients.iter().map(|one| one as &dyn Recipient).collect(),
            Seal::Passphrase(recipient) => vec![recipient],
        };
        let encryptor = Encryptor::with_recipients(recipients.into_iter()).map_err(io::Error::other)?;
        Ok(Sealed::Age(Box::new(encryptor.wrap_output(to)?)))
    }
}

fn no_recipient(text: &str, why: &str) -> Failure {
    let failure =
        Failure::usage(format!("`{}` is no recipient of age's: {why}", text.chars().take(80).collect::<String>()));
    failure.next("a recipient begins with `age1`; `age-keygen -o key.txt` makes a key and prints its recipient")
}

/// Whether that is a recipient as [`Seal::to`] reads it.
#[must_use]
pub fn is_recipient(text: &str) -> bool {
    text.parse::<x25519::Recipient>().is_ok()
}

fn passphrase(file: &Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| io_failure("read the passphrase in", file, &error))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::usage(format!("the first line of `{}` is empty: there is no passphrase", file.display())));
    }
    Ok(SecretString::from(line.to_owned()))
}

/// What closes an archive while it is written.
pub(super) enum Sealed<W: Write> {
    Plain(W),
    Age(Box<age::stream::StreamWriter<W>>),
}

impl<W: Write> Sealed<W> {
    /// Writes what is left.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Sealed::Plain(to) => Ok(to),
            Sealed::Age(to) => to.finish(),
        }
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sealed::Plain(to) => to.write(bytes),
            Sealed::Age(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sealed::Plain(to) => to.flush(),
            Sealed::Age(to) => to.flush(),
        }
    }
}

/// What opens an archive.
#[derive(Default)]
pub struct Unseal {
    identities: Vec<x25519::Identity>,
    passphrase: Option<SecretString>,
}

impl Unseal {
    /// With the identities in those files (as `age-keygen` writes them) and the passphrase in that.
    ///
    /// # Errors
    /// A file cannot be read, or holds none.
    pub fn with(identities: &[std::path::PathBuf], passphrase_file: Option<&Path>) -> Result<Self, Failure> {
        let mut unseal = Unseal { identities: Vec::new(), passphrase: passphrase_file.map(passphrase).transpose()? };
        for file in identities {
            let text =
                std::fs::read_to_string(file).map_err(|error| io_failure("read the identity in", file, &error))?;
            let before = unseal.identities.len();
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                // The line is a secret: it is not shown.
                unseal.identities.push(line.parse().map_err(|why: &str| {
                    Failure::usage(format!("`{}` is no file of age identities: {why}", file.display()))
                        .next("`age-keygen -o FILE` makes one; its lines begin with `AGE-SECRET-KEY-1`")
                })?);
            }
            if unseal.identities.len() == before {
                return Err(Failure::usage(format!("`{}` holds no age identity", file.display())));
            }
        }
        Ok(unseal)
    }

    /// Opens what begins with `head`, which has been read, and goes on with `rest`. Says, too, how it was closed.
    pub(super) fn open<'a>(
        &self,
        path: &Path,
        head: &[u8],
        all: impl Read + 'a,
    ) -> Result<(Protection, Box<dyn Read + 'a>), Failure> {
        if head.starts_with(ARMOR) {
            return Err(Failure::refused(format!("`{}` is an age file in letters", path.display()))
                .next(format!("`age -d` opens it; coastal writes binary archives, `{}`", "LAB-TIME.tar.age")));
        }
        if !head.starts_with(MAGIC) {
            return Ok((Protection::Plaintext, Box::new(all)));
        }
        let decryptor = Decryptor::new(all).map_err(|error| self.trouble(path, false, error))?;
        let with_passphrase = decryptor.is_scrypt();
        let protection = if with_passphrase { Protection::Passphrase } else { Protection::Recipients };
        let result = if with_passphrase {
            let Some(passphrase) = &self.passphrase else {
                return Err(Failure::usage(format!("`{}` is encrypted with a passphrase", path.display()))
                    .next("`--passphrase-file FILE` names the file whose first line is the passphrase"));
            };
            let mut identity = scrypt::Identity::new(passphrase.clone());
            identity.set_max_work_factor(MOST_WORK);
            decryptor.decrypt(iter::once(&identity as &dyn Identity))
        } else {
            if self.identities.is_empty() {
                return Err(Failure::usage(format!("`{}` is encrypted to recipients", path.display()))
                    .next("`--identity FILE` names the file with the secret key of one of them"));
            }
            decryptor.decrypt(self.identities.iter().map(|one| one as &dyn Identity))
        };
        let reader = result.map_err(|error| self.trouble(path, with_passphrase, error))?;
        Ok((protection, Box::new(reader)))
    }

    fn trouble(&self, path: &Path, with_passphrase: bool, error: DecryptError) -> Failure {
        let path = path.display();
        match error {
            DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed
                if with_passphrase =>
            {
                wrong_passphrase(&path)
            }
            DecryptError::NoMatchingKeys => {
                Failure::refused(format!("none of the {} identities given opens `{path}`", self.identities.len()))
                    .next("it was encrypted to other recipients: name the file with the secret key of one of them with `--identity`")
            }
            DecryptError::ExcessiveWork { required, .. } => Failure::refused(format!(
                "`{path}` asks for 2^{required} KiB of memory to be opened: coastal wrote no such file"
            )),
            other => Failure::refused(format!("`{path}` is damaged: its head cannot be read ({other})"))
                .next("take an older backup: `coastal backup list`"),
        }
    }
}

fn wrong_passphrase(path: &impl std::fmt::Display) -> Failure {
    Failure::refused(format!("the passphrase does not open `{path}`"))
        .next("`--passphrase-file FILE`: its first line, without the line's end, is the passphrase")
}
