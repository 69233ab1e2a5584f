//! When a scheduled backup is taken: a cron expression, as the controller of Kubernetes' `CronJob`s reads it (the five fields
//! of `man 5 crontab`, `?` for `*`, and the names that begin with `@`).

use crate::error::Failure;

/// A field: its name, its smallest and largest value, and names for values from the smallest on.
struct Field(&'static str, u32, u32, &'static [&'static str]);

const FIELDS: [Field; 5] = [
    Field("minute", 0, 59, &[]),
    Field("hour", 0, 23, &[]),
    Field("day of the month", 1, 31, &[]),
    Field("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    Field("day of the week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

const NAMED: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// The longest month that there can be, from January on.
const DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Reads an expression; what comes back has one space between fields.
///
/// # Errors
/// It is none; says which field, and why.
pub fn parse(text: &str) -> Result<String, Failure> {
    let wrong = |why: String| {
        Failure::usage(format!("`{}` is no schedule: {why}", text.chars().take(80).collect::<String>()))
            .fact("the fields are: minute (0-59), hour (0-23), day of the month (1-31), month (1-12), day of the week (0-6, 0 is Sunday); in UTC")
            .next("every six hours: `--schedule \"0 */6 * * *\"`; every night at three: `--schedule \"0 3 * * *\"`")
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [name] = words.as_slice()
        && name.starts_with('@')
    {
        return if NAMED.contains(name) {
            Ok((*name).to_owned())
        } else {
            Err(wrong(format!("the names are {}", NAMED.join(", "))))
        };
    }
    if words.len() != FIELDS.len() {
        return Err(wrong(format!("it has {} fields, not {}", words.len(), FIELDS.len())));
    }
    let mut values = Vec::new();
    for (field, word) in FIELDS.iter().zip(&words) {
        values.push(field.values(word).map_err(|why| wrong(format!("the {} `{word}`: {why}", field.0)))?);
    }
    // With a day of the week beside it, either is enough.
    let [_, _, days, months, _] = values.as_slice() else { return Ok(words.join(" ")) };
    let any_weekday = words.last().is_some_and(|word| word.starts_with(['*', '?']));
    let longest = months.iter().filter_map(|month| DAYS.get(*month as usize - 1)).max();
    if any_weekday && days.iter().min() > longest {
        return Err(wrong("no month that it names has such a day: it would never be taken".into()));
    }
    Ok(words.join(" "))
}

impl Field {
    /// All values that the word stands for.
    fn values(&self, word: &str) -> Result<Vec<u32>, String> {
        let mut values = Vec::new();
        for part in word.split(',') {
            let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            let Field(_, least, most, _) = *self;
            let (from, to) = match (range, range.split_once('-')) {
                ("*" | "?", _) => (least, most),
                (_, Some((from, to))) => (self.value(from)?, self.value(to)?),
                // `5/15` is from five on.
                (_, None) if step.is_some() => (self.value(range)?, most),
                (_, None) => (self.value(range)?, self.value(range)?),
            };
            if from > to {
                return Err(format!("{from} comes after {to}"));
            }
            let step = match step.map(number) {
                None => 1,
                Some(Some(step)) if step > 0 => step as usize,
                Some(_) => return Err("a step is a number above zero".into()),
            };
            values.extend((from..=to).step_by(step));
        }
        Ok(values)
    }

    fn value(&self, word: &str) -> Result<u32, String> {
        let Field(_, least, most, words) = *self;
        let named = words.iter().zip(least..).find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = named.or_else(|| number(word)).ok_or_else(|| {
            if word.is_empty() { "a value is missing".to_owned() } else { format!("`{word}` is no number") }
        })?;
        if (least..=most).contains(&value) { Ok(value) } else { Err(format!("{value} is not in {least}-{most}")) }
    }
}

/// Digits only: no sign.
fn number(word: &str) -> Option<u32> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn schedules_are_read() {
        for (text, read) in [
            ("0 */6 * * *", "0 */6 * * *"),
            ("  5  4,16 * *  sun ", "5 4,16 * * sun"),
            ("0-30/10 0 1-7 JAN-mar mon-fri", "0-30/10 0 1-7 JAN-mar mon-fri"),
            ("5/15 ? ? * ?", "5/15 ? ? * ?"),
            ("0 0 31 2 1", "0 0 31 2 1"),
            ("0 0 29 2 *", "0 0 29 2 *"),
            ("@daily", "@daily"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(read));
        }
    }

    #[test]
    fn what_is_none_says_which_field() {
        for (text, why) in [
            ("", "0 fields"),
            ("0 0 * *", "4 fields"),
            ("0 0 0 * * *", "6 fields"),
            ("60 * * * *", "minute `60`: 60 is not in 0-59"),
            ("0 24 * * *", "hour `24`"),
            ("0 0 0 * *", "day of the month `0`"),
            ("0 0 * 13 *", "month `13`"),
            ("0 0 * * 7", "day of the week `7`"),
            ("0 0 * * mondays", "`mondays` is no number"),
            ("*/0 * * * *", "a step is a number above zero"),
            ("*/x * * * *", "a step is a number above zero"),
            ("*/ * * * *", "a step is a number above zero"),
            ("5-1 * * * *", "5 comes after 1"),
            ("1,,2 * * * *", "a value is missing"),
            ("+5 * * * *", "`+5` is no number"),
            ("99999999999 * * * *", "is no number"),
            ("0 0 31 4,jun *", "no month that it names has such a day"),
            ("@fortnightly", "the names are @yearly"),
            ("every night", "2 fields"),
            ("TZ=UTC 0 0 * * *", "6 fields"),
        ] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message.contains(why), "{text}: {}", failure.message);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[0-9*/?,\\- a-z@]{0,30}") {
            if let Ok(read) = parse(&text) {
                prop_assert_eq!(parse(&read), Ok(read.clone()));
            }
        }
    }
}
