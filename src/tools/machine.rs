//! temporary
use crate::{world::*, error::Failure};
use std::sync::Arc;
struct C; impl Clock for C { fn now(&self) -> jiff::Timestamp { jiff::Timestamp::now() } }
struct F; #[async_trait::async_trait] impl Fetcher for F { async fn fetch(&self, url:&str, _to:&std::path::Path, _c:&tokio_util::sync::CancellationToken) -> Result<(), Failure> { Err(Failure::tool(url)) } }
/// temporary
pub fn real_world() -> World { World { runner: Arc::new(super::process::ProcessRunner::new()), connector: Arc::new(crate::kube::RealConnector), clock: Arc::new(C), fetcher: Arc::new(F) } }
