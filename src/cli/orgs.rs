//! `batchd orgs`: the organisations of a running daemon.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::org::{Org, find, known};
use super::output::{CommandRefused, put, table};
use super::quotas::{self, QuotaSetting};
use super::remote::{self, RemoteArgs};
use super::say;
use crate::daemon::Environment;

/// Show, name, fund and close the organisations of a running daemon
#[derive(Debug, Subcommand)]
pub enum OrgsCommand {
    /// Show the organisations and what they have spent
    List(ListOrgsArgs),
    /// Create an organisation, without a key
    Create(CreateOrgArgs),
    /// Give an organisation another name
    Rename(RenameArgs),
    /// Grant an organisation credits, in US dollars
    Credit(CreditArgs),
    /// Show the quotas of an organisation and what it uses, or change them
    Quotas(OrgQuotasArgs),
    /// Close an organisation for good: its keys die at once, and its batches are cancelled
    Close(CloseArgs),
}

#[derive(Debug, Args)]
pub struct ListOrgsArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct CreateOrgArgs {
    /// What people call it
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// What it may spend, in US dollars; without it, as much as it likes
    #[arg(long, value_name = "DOLLARS", value_parser = NonEmptyStringValueParser::new())]
    credits: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Its present name, or its id
    #[arg(value_name = "ORG")]
    org: Org,
    /// Its new name
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct CreditArgs {
    /// Its name, or its id
    #[arg(value_name = "ORG")]
    org: Org,
    /// How much more it may spend, such as 25.00
    #[arg(value_name = "DOLLARS", required_unless_present = "unlimited", value_parser = NonEmptyStringValueParser::new())]
    dollars: Option<String>,
    /// Lift its limit
    #[arg(long, conflicts_with = "dollars")]
    unlimited: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct OrgQuotasArgs {
    /// Its name, or its id
    #[arg(value_name = "ORG")]
    org: Org,
    /// A quota to set, such as stored_bytes=10000000000 or usd_per_day=5.00; `none` lifts it
    #[arg(value_name = "QUOTA=AMOUNT")]
    set: Vec<QuotaSetting>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What becomes of the data of a closed organisation.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Data {
    /// The operator can still read it
    Keep,
    /// Its files and batches are erased, and do not come back
    Erase,
}

#[derive(Debug, Args)]
pub struct CloseArgs {
    /// Its name, or its id
    #[arg(value_name = "ORG")]
    org: Org,
    /// What becomes of its files and batches
    #[arg(long, value_name = "WHAT", value_enum)]
    data: Data,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command and returns the exit code.
pub fn run(command: &OrgsCommand, env: Environment) -> u8 {
    remote::run(async {
        match command {
            OrgsCommand::List(args) => list(args, env).await,
            OrgsCommand::Create(args) => create(args, env).await,
            OrgsCommand::Rename(args) => rename(args, env).await,
            OrgsCommand::Credit(args) => credit(args, env).await,
            OrgsCommand::Quotas(args) => {
                let client = args.remote.client(&env)?;
                quotas::run(&client, &known(&client, &args.org).await?, "/quotas", &args.set, &args.remote).await
            }
            OrgsCommand::Close(args) => close(args, env).await,
        }
    })
}

async fn list(args: &ListOrgsArgs, env: Environment) -> Result<u8, CommandRefused> {
    let orgs = args.remote.client(&env)?.organisations(None).await?;
    put(&if args.remote.json { json!({ "data": orgs }).to_string() } else { render(&orgs) })?;
    Ok(0)
}

async fn create(args: &CreateOrgArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    if find(&client, &Org::Named(args.name.clone())).await?.is_ok() {
        return Err(CommandRefused::usage(format!("there is an organisation with the name `{}` already", args.name)));
    }
    let made = client.add_organisation(&args.name, args.credits.as_deref()).await?;
    show(&made, &args.remote)
}

async fn rename(args: &RenameArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    let org = known(&client, &args.org).await?;
    show(&client.change_organisation(&org, "", &json!({ "name": args.name })).await?, &args.remote)
}

async fn credit(args: &CreditArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    let org = known(&client, &args.org).await?;
    let wish = if args.unlimited { json!({ "unlimited": true }) } else { json!({ "grant": args.dollars }) };
    show(&client.change_organisation(&org, "/credits", &wish).await?, &args.remote)
}

async fn close(args: &CloseArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    let org = known(&client, &args.org).await?;
    let data = match args.data {
        Data::Keep => "keep",
        Data::Erase => "erase",
    };
    let closed = client.change_organisation(&org, "/close", &json!({ "data": data })).await?;
    say("its keys open nothing any more; its batches are being cancelled");
    show(&closed, &args.remote)
}

fn show(org: &Value, remote: &RemoteArgs) -> Result<u8, CommandRefused> {
    put(&if remote.json { org.to_string() } else { render(std::slice::from_ref(org)) })?;
    Ok(0)
}

fn render(orgs: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |org: &Value| {
        let left = if org["unlimited"] == true { "unlimited".to_owned() } else { text(&org["credit_balance"]["amount"]) };
        let state = match org["erased"] == true {
            true => "closed, erased".to_owned(),
            false => text(&org["state"]),
        };
        vec![text(&org["org_id"]), text(&org["name"]), text(&org["created_at"]), left, text(&org["credits"]["charged"]["amount"]), state]
    };
    table(&["id", "name", "created", "credits left", "charged", "state"], orgs.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organisations_are_a_table() {
        let org = |n: u32, name: &str, unlimited: bool, state: &str| {
            json!({
                "org_id": format!("org_{n:032x}"), "name": name, "created_at": "2026-11-24T15:06:00.000Z", "credit_balance": { "amount": "12.50" },
                "unlimited": unlimited, "credits": { "charged": { "amount": "1.00" } }, "state": state, "erased": n == 3,
            })
        };
        let orgs = [org(0, "Operator", true, "open"), org(2, "Acme & Söhne", false, "open"), org(3, "Gone", false, "closed")];
        insta::assert_snapshot!(render(&orgs));
    }
}
