//! The table of charts is complete, and says what the charts do.

use std::collections::BTreeSet;

use super::*;

fn chart(text: &str) -> Chart {
    find(&text.parse().unwrap()).unwrap()
}

fn release(text: &str) -> Release {
    releases::find(&text.parse().unwrap()).unwrap()
}

#[test]
fn the_file_is_read_whole() {
    let file: File = toml::from_str(DATA).unwrap();
    let (versions, accepts, traps) = (file.versions.len(), file.accepts.len(), file.trap.len());
    let table = table(file).expect("every version that it names was published");
    assert_eq!((table.charts.len(), table.accepts.len(), table.traps.len()), (versions, accepts, traps));
    assert_eq!(versions, 60);
}

#[test]
fn charts_are_sorted_and_leave_out_no_minor_version() {
    let versions: Vec<&Version> = all().map(Chart::version).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "and none is there twice");
    let minors: BTreeSet<u64> = versions.iter().map(|version| version.minor).collect();
    assert_eq!(minors, (1..=30).collect());
    for minor in minors {
        let patches: Vec<u64> = versions.iter().filter(|v| v.minor == minor).map(|v| v.patch).collect();
        assert_eq!(patches, (0..patches.len() as u64).collect::<Vec<_>>(), "0.{minor}");
    }
}

#[test]
fn what_a_chart_deploys_never_goes_back() {
    for (before, after) in all().zip(all().skip(1)) {
        assert!(before.spire() <= after.spire(), "{before} {after}");
        assert!(before.crds() <= after.crds(), "{before} {after}");
        assert!(before.controller_manager() <= after.controller_manager(), "{before} {after}");
        assert!(before.spire().is_within_one_minor(after.spire()), "{before} {after}");
    }
    assert_eq!(all().find(|chart| chart.crds().is_some()), Some(chart("0.14.0")));
}

#[test]
fn images_are_those_of_the_subcharts() {
    let rows = [
        ("0.2.0", "1.5.4"),
        ("0.5.0", "1.6.0"),
        ("0.13.0", "1.7.2"),
        ("0.14.0", "1.8.2"),
        ("0.19.2", "1.9.3"),
        ("0.21.0", "1.9.6"),
        ("0.21.1", "1.10.0"),
        ("0.24.2", "1.11.2"),
        ("0.24.3", "1.12.0"),
        ("0.27.1", "1.13.2"),
        ("0.28.5", "1.14.5"),
        ("0.29.0", "1.15.1"),
        ("0.30.0", "1.15.2"),
    ];
    for (version, spire) in rows {
        assert_eq!(chart(version).spire(), release(spire), "{version}");
    }
}

#[test]
fn every_chart_understands_itself() {
    for chart in all() {
        let refused = chart.refuses_any(chart.spire());
        assert_eq!(refused, None, "{chart} deploys {}", chart.spire());
    }
}

#[test]
fn each_bound_holds_at_its_edges() {
    use Component::{Agent, Server};
    let rows = [
        ("0.13.0", Agent, "1.15.3", true),
        ("0.13.0", Server, "1.4.7", false),
        ("0.13.0", Server, "1.5.0", true),
        ("0.19.0", Agent, "1.15.3", true),
        ("0.19.1", Agent, "1.9.1", false),
        ("0.19.1", Agent, "1.9.2", true),
        ("0.26.1", Agent, "1.13.6", true),
        ("0.26.1", Agent, "1.14.0", false),
        ("0.26.1", Server, "1.14.0", true),
        ("0.25.0", Server, "1.9.0", true),
        ("0.26.0", Server, "1.12.3", false),
        ("0.26.0", Server, "1.12.4", true),
        ("0.27.0", Agent, "1.12.6", false),
        ("0.27.0", Agent, "1.13.0", true),
        ("0.29.0", Server, "1.13.6", true),
        ("0.30.0", Server, "1.13.6", false),
        ("0.30.0", Server, "1.14.0", true),
    ];
    for (version, component, spire, accepted) in rows {
        let refused = chart(version).refuses(component, release(spire));
        assert_eq!(refused.is_none(), accepted, "{version} {component} {spire}");
        assert!(refused.is_none_or(|row| row.because.starts_with("it ")));
    }
}

#[test]
fn traps_lie_where_they_lie() {
    let ids = |from: &str, to: &str| chart(from).traps(chart(to));
    assert_eq!(ids("0.11.1", "0.12.0"), [Trap::StatefulSetSelector]);
    assert_eq!(ids("0.13.0", "0.13.2"), []);
    assert_eq!(ids("0.13.0", "0.14.0"), [Trap::CrdAdoption]);
    assert_eq!(ids("0.18.2", "0.19.0"), [Trap::DaemonSetSelector]);
    assert_eq!(ids("0.19.0", "0.18.2"), [Trap::DaemonSetSelector], "a selector is as immutable on the way down");
    assert_eq!(ids("0.19.2", "0.20.0"), [Trap::ServerPortMove, Trap::EntryPrefix]);
    assert_eq!(ids("0.23.0", "0.24.0"), [Trap::CamelCaseRenames, Trap::DefaultIdentityFallback]);
    assert_eq!(ids("0.25.0", "0.26.1"), [Trap::BundlePublisher]);
    assert_eq!(ids("0.26.1", "0.27.0"), [Trap::Rebootstrap]);
    assert_eq!(ids("0.1.0", "0.30.0").len(), TABLE.traps.len());
}

#[test]
fn every_trap_is_described_once() {
    let all = [
        Trap::StatefulSetSelector,
        Trap::CrdAdoption,
        Trap::AgentHealthPort,
        Trap::ClassName,
        Trap::IdentitiesMoved,
        Trap::ImageVersionIgnored,
        Trap::ReleaseNamespaceIdentity,
        Trap::OidcProvider,
        Trap::TornjakSecurityContext,
        Trap::AgentSocketPath,
        Trap::DaemonSetSelector,
        Trap::ServerPortMove,
        Trap::EntryPrefix,
        Trap::ChownContainer,
        Trap::AgentDataDirectory,
        Trap::CamelCaseRenames,
        Trap::DefaultIdentityFallback,
        Trap::BundlePublisher,
        Trap::Rebootstrap,
    ];
    assert_eq!(TABLE.traps.iter().map(|row| row.trap).collect::<Vec<_>>(), all, "in the order of the charts");
    assert!(TABLE.traps.is_sorted_by(|a, b| a.at <= b.at));
    for trap in all {
        for sentence in [trap.what(), trap.handling()] {
            assert!(!sentence.is_empty() && !sentence.ends_with('.') && !sentence.contains('\n'), "{trap:?}");
        }
    }
}

#[test]
fn the_chart_that_goes_with_a_version() {
    let rows = [
        ("1.7.2", "0.13.0"),
        ("1.8.0", "0.13.2"),
        ("1.8.11", "0.17.2"),
        ("1.12.2", "0.25.0"),
        ("1.12.6", "0.26.1"),
        ("1.13.6", "0.27.1"),
        ("1.14.0", "0.27.1"),
        ("1.15.0", "0.28.5"),
        ("1.15.3", "0.30.0"),
    ];
    for (spire, version) in rows {
        assert_eq!(made_for(release(spire)), Some(chart(version)), "{spire}");
    }
    assert_eq!(made_for(release("1.4.7")), None);
}

#[test]
fn waypoints_are_the_newest_of_each_kind() {
    let names = |from: &str, to: &str| {
        waypoints(chart(from), chart(to)).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("0.13.0", "0.17.0"), "0.13.2 0.14.0 0.15.1 0.16.0 0.17.0");
    assert_eq!(names("0.18.2", "0.22.0"), "0.19.0 0.19.2 0.20.0 0.21.0 0.21.1 0.22.0");
    assert_eq!(names("0.25.0", "0.24.0"), "0.24.5 0.24.2 0.24.0");
    assert_eq!(names("0.13.0", "0.13.0"), "");
}
