//! `chains`: what a node has learned of calls that follow one another.
//!
//! Must not: judge; it prints what the node says.

use std::fmt::Write;
use std::process::ExitCode;

use crate::types::{ChainExplanation, FunctionName};

/// Functions whose chains are asked for at once.
const PAGE: &str = "1000";

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Only chains that begin with this function.
    function: Option<FunctionName>,
    /// Print the node's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: super::admin::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut chains = Vec::new();
    loop {
        let page = page(arguments, &chains)?;
        // The node gives pages of functions in the order of their names; one that does not is not asked for ever.
        let is_last = arguments.function.is_some() || page.is_empty() || last(&page) <= last(&chains);
        chains.extend(page);
        if is_last {
            break;
        }
    }
    chains.sort_by(ChainExplanation::by_worth);
    if arguments.json {
        super::print_json(&chains)?;
    } else {
        print!("{}", table(&chains));
    }
    Ok(ExitCode::SUCCESS)
}

fn page(arguments: &Arguments, so_far: &[ChainExplanation]) -> anyhow::Result<Vec<ChainExplanation>> {
    let mut query = vec![("limit", PAGE)];
    query.extend(arguments.function.as_ref().map(|function| ("from", function.as_str())));
    query.extend(last(so_far).map(|function| ("after", function.as_str())));
    Ok(arguments.admin.ask_for(&["chains"], &query, false)?.unwrap_or_default())
}

/// The last function, in the order of names, that a chain begins with.
fn last(chains: &[ChainExplanation]) -> Option<&FunctionName> {
    chains.iter().map(|chain| &chain.from).max()
}

fn table(chains: &[ChainExplanation]) -> String {
    if chains.is_empty() {
        return "no chain has been learned\n".to_owned();
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<28} {:<28} {:>6} {:>7} {:>8} {:>15} {:>9} {:>7}  state",
        "a call of", "announces", "likely", "lift", "support", "after", "precision", "wasted"
    );
    for chain in chains {
        let after = format!("{}..{} ms", chain.earliest_ms, chain.latest_ms);
        let precision = chain.precision().map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0));
        let state = match (&chain.held_by, &chain.rule) {
            (None, None) => "acts".to_owned(),
            (None, Some(rule)) => format!("acts ({rule})"),
            (Some(held_by), _) => format!("held: {held_by}"),
        };
        let _ = writeln!(
            text,
            "{:<28} {:<28} {:>5.0}% {:>7.1} {:>8.0} {after:>15} {precision:>9} {:>7}  {state}",
            chain.from.as_str(),
            chain.to.as_str(),
            chain.probability * 100.0,
            chain.lift,
            chain.support,
            chain.wasted(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chain_is_a_line_with_its_precision_and_waste() {
        let chain = |to: &str, rule: Option<&str>, held_by: Option<&str>, announced, came| ChainExplanation {
            from: "shop/order".parse().unwrap(),
            to: to.parse().unwrap(),
            probability: 0.8,
            lift: 12.34,
            support: 41.0,
            traced: 0.0,
            earliest_ms: 128,
            latest_ms: 2_048,
            announced,
            came,
            rule: rule.map(str::to_owned),
            held_by: held_by.map(str::to_owned),
        };
        let chains = [
            chain("shop/invoice", None, None, 50, 40),
            chain("shop/mail", Some("pin"), None, 0, 0),
            chain("shop/archive", None, Some("support"), 0, 0),
        ];
        let wanted = "\
a call of                    announces                    likely    lift  support           after precision  wasted  state
shop/order                   shop/invoice                    80%    12.3       41    128..2048 ms       80%      10  acts
shop/order                   shop/mail                       80%    12.3       41    128..2048 ms         -       0  acts (pin)
shop/order                   shop/archive                    80%    12.3       41    128..2048 ms         -       0  held: support
";
        assert_eq!(table(&chains), wanted);
        assert_eq!(table(&[]), "no chain has been learned\n");
    }
}
