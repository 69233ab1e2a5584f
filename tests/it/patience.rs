//! What mends itself is waited for.

use std::time::Duration;

use coastal::plan::Goal;
use coastal::rehearsal::Fault;
use coastal::rehearsal::store::Key;

use crate::rehearsed::Stage;

/// As on a cluster whose database is slow: the servers end a few times, then they find what they need.
#[tokio::test(start_paused = true)]
async fn servers_that_crash_while_their_database_starts_are_waited_for() {
    let stage = Stage::new().await;
    stage.rehearsal.inject(Fault::ServerCrashLoop(None));
    let server = Key::pod("spire-server", "spire-server-0");
    let restarts =
        || stage.rehearsal.store("kind")?.get(&server)?["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let the_database_comes = async {
        while restarts() < Some(3) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stage.rehearsal.cure("server-crash-loop");
    };
    tokio::join!(stage.make(Goal::Up), the_database_comes);
    assert!(restarts() >= Some(3));
}
