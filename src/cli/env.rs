//! `coastal env`: lets hand-typed kubectl and helm hit the lab.

use std::collections::BTreeMap;

use crate::cli::outside::Outside;
use crate::error::ExitCode;
use crate::observe;
use crate::session::Session;
use crate::steps::reach;
use crate::ui::Ui;

/// Prints the exports, for `eval`.
pub fn run(ui: &Ui, outside: &Outside) -> ExitCode {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let target = reach::target(&cx);
    let mut variables: BTreeMap<String, String> = reach::helm(&cx).environment().into_iter().collect();
    variables.insert("KUBECONFIG".into(), target.kubeconfig.display().to_string());
    variables.insert("HELM_KUBECONTEXT".into(), target.context);
    if ui.is_json() {
        ui.document(&variables);
    } else {
        let lines: Vec<String> =
            variables.iter().map(|(key, value)| format!("export {key}='{}'", value.replace('\'', r"'\''"))).collect();
        ui.text(&lines.join("\n"));
    }
    ExitCode::Ok
}
