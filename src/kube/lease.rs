//! A lease: so that two people at two machines do not do the same dangerous thing at once.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, PostParams};

use crate::error::Failure;
use crate::kube::{Cluster, api_failure};

/// How long a holder that says nothing more is believed to be at work.
const LASTS_S: i32 = 60;

/// Somebody who wants a lease.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// Where the lease lies.
    pub namespace: &'a str,
    /// What it is called.
    pub name: &'a str,
    /// Who wants it, so that others can ask them.
    pub who: &'a str,
}

impl Cluster {
    /// Takes the lease, or says once more that it is held. Nobody else can while this is done often enough.
    ///
    /// # Errors
    /// Somebody else holds it: who, and until when. Or the server does not answer.
    pub async fn hold(&self, holder: Holder<'_>, now: Timestamp) -> Result<(), Failure> {
        let Holder { namespace, name, who } = holder;
        let api = self.namespaced::<Lease>(namespace);
        let what = format!("could not take the lease {namespace}/{name}");
        let current = self.get::<Lease>(namespace, name).await?;
        let spec = |since: Option<MicroTime>| LeaseSpec {
            holder_identity: Some(who.to_owned()),
            lease_duration_seconds: Some(LASTS_S),
            acquire_time: since.or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let result = match current {
            None => {
                let mut lease = Lease { spec: Some(spec(None)), ..Lease::default() };
                lease.metadata.name = Some(name.to_owned());
                lease.metadata.namespace = Some(namespace.to_owned());
                api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let had = lease.spec.take().unwrap_or_default();
                let of = had.holder_identity.clone().unwrap_or_default();
                if let Some(until) = held_until(&had).filter(|until| of != who && now < *until) {
                    return Err(held_by(&of, until));
                }
                lease.spec = Some(spec(had.acquire_time.filter(|_| of == who)));
                // With its resourceVersion: whoever comes second is told so.
                api.replace(name, &PostParams::default(), &lease).await
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(Failure::refused("somebody else has just begun the same; nothing was done")
                    .next(super::by_kubectl(&format!("-n {namespace} get lease {name} -o yaml"))))
            }
            Err(error) => Err(api_failure(&what, &error)),
        }
    }

    /// Gives the lease back, if it is ours.
    ///
    /// # Errors
    /// The server does not answer. Then it ends by itself.
    pub async fn let_go(&self, holder: Holder<'_>) -> Result<(), Failure> {
        let current = self.get::<Lease>(holder.namespace, holder.name).await?;
        let of = current.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
        if of.as_deref() != Some(holder.who) {
            return Ok(());
        }
        let api = self.namespaced::<Lease>(holder.namespace);
        match api.delete(holder.name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(api_failure("could not give the lease back", &error)),
        }
    }
}

fn held_until(spec: &LeaseSpec) -> Option<Timestamp> {
    let lasts = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds.unwrap_or(LASTS_S)));
    spec.renew_time.as_ref().and_then(|MicroTime(renewed)| renewed.checked_add(lasts).ok())
}

fn held_by(who: &str, until: Timestamp) -> Failure {
    Failure::refused(format!("{who} is rotating keys here; two at once would overwrite each other's authorities"))
        .fact(format!("the lease ends at {until:.0} unless it is renewed"))
        .next("ask them; a run that was killed lets go of it by then")
}
