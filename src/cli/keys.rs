//! `batchd keys`: the API keys of a running daemon's clients.

mod args;

use std::collections::HashMap;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::args::When;
use super::org::{Org, find, ids, known};
use super::output::{CommandRefused, put, table};
use super::quotas::{self, QuotaSetting};
use super::remote::{self, RemoteArgs};
use super::say;
use crate::client::Client;
use crate::daemon::Environment;
use crate::domain::id::KeyId;
use crate::domain::org::KeyKind;
use crate::domain::org::scopes::Scope;
use crate::domain::time::Timestamp;

/// Make, show and revoke the API keys of a running daemon's clients
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key, and print its secret, which is shown once
    ///
    /// The secret alone goes to standard output, everything else to standard error.
    Create(CreateArgs),
    /// Show the keys, without their secrets
    List(ListKeysArgs),
    /// Show the quotas of a key and what was used with it, or change them
    Quotas(KeyQuotasArgs),
    /// Let a key open nothing any more
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Whose clients it is for: that decides how the secret looks
    #[arg(long, value_name = "DIALECT", value_parser = PossibleValuesParser::new(KeyKind::DIALECTS))]
    dialect: String,
    /// Whose it is: the name or id of an organisation, or `operator` for the operator's own
    #[arg(long, value_name = "NAME")]
    org: Org,
    /// Create the organisation if none has that name, with unlimited credits
    #[arg(long)]
    create_org: bool,
    /// What the key permits, separated by commas: read, write, manage
    ///
    /// By default a key may read and write; only a key that may manage makes and revokes keys and sets
    /// receivers of webhooks.
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', value_parser = PossibleValuesParser::new(Scope::WORDS))]
    scope: Vec<String>,
    /// For managing the receivers of webhooks, and nothing else; with `--dialect phaseo` alone
    #[arg(long)]
    management: bool,
    /// What people call the key
    #[arg(long, value_name = "LABEL", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// When it stops working: in a time such as 30d or 12h, or at a moment such as 2027-03-01T00:00:00Z
    #[arg(long, value_name = "WHEN")]
    expires: Option<When>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct ListKeysArgs {
    /// Only the keys of this organisation: its name or id, or `operator`
    #[arg(long, value_name = "NAME")]
    org: Option<Org>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The key's id, not its secret
    #[arg(value_name = "KEY_ID")]
    id: KeyId,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct KeyQuotasArgs {
    /// The key's id, not its secret
    #[arg(value_name = "KEY_ID")]
    id: KeyId,
    /// A quota to set, such as requests_per_minute=60; `none` lifts it
    #[arg(value_name = "QUOTA=AMOUNT")]
    set: Vec<QuotaSetting>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command and returns the exit code.
pub fn run(command: &KeysCommand, env: Environment) -> u8 {
    remote::run(async {
        match command {
            KeysCommand::Create(args) => create(args, env).await,
            KeysCommand::List(args) => list(args, env).await,
            KeysCommand::Quotas(args) => change_quotas(args, env).await,
            KeysCommand::Revoke(args) => revoke(args, env).await,
        }
    })
}

async fn create(args: &CreateArgs, env: Environment) -> Result<u8, CommandRefused> {
    // Every fault that can be found beforehand is found before an organisation is created.
    if let Err(error) = KeyKind::of(&args.dialect, args.management) {
        return Err(CommandRefused::usage(format!("--management {error}")));
    }
    let expires_at = args.expires.map(|when| when.after(Timestamp::now())).transpose().map_err(CommandRefused::usage)?;
    let client = args.remote.client(&env)?;
    let org = match find(&client, &args.org).await? {
        Ok(id) => id,
        Err(name) if !args.create_org => {
            return Err(CommandRefused::usage(format!("there is no organisation with the name `{name}`; --create-org creates it")));
        }
        Err(name) => {
            let made = client.add_organisation(name, None).await?;
            say(&format!("created the organisation `{name}` with unlimited credits: {}", text(&made["org_id"])));
            text(&made["org_id"]).to_owned()
        }
    };
    let scopes = (!args.scope.is_empty()).then_some(&args.scope);
    let wish = json!({
        "dialect": args.dialect, "management": args.management, "name": args.name,
        "expires_at": expires_at.map(|at| at.to_string()), "scopes": scopes,
    });
    let made = client.add_key(&org, &wish).await?;
    let (id, org) = (text(&made["api_key_id"]), text(&made["org_name"]));
    say(&format!("made {id} for `{org}`; its secret is shown once, now, and kept nowhere"));
    put(&if args.remote.json { made.to_string() } else { text(&made["api_key"]).to_owned() })?;
    Ok(0)
}

async fn list(args: &ListKeysArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    let orgs = match &args.org {
        Some(org) => vec![known(&client, org).await?],
        None => ids(&client.organisations(None).await?),
    };
    let mut keys = Vec::new();
    for org in orgs {
        keys.extend(client.keys(&org).await?);
    }
    if args.remote.json {
        put(&json!({ "data": keys }).to_string())?;
    } else if keys.is_empty() {
        say("there are no keys");
    } else {
        put(&render(&keys))?;
    }
    Ok(0)
}

async fn revoke(args: &RevokeArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    let id = args.id.in_hex();
    let owner = owner_of(&client, &id).await?;
    let revoked = client.revoke_key(&owner, &id).await?;
    put(&if args.remote.json { revoked.to_string() } else { format!("{id} is revoked: it opens nothing any more") })?;
    Ok(0)
}

async fn change_quotas(args: &KeyQuotasArgs, env: Environment) -> Result<u8, CommandRefused> {
    let client = args.remote.client(&env)?;
    let id = args.id.in_hex();
    let owner = owner_of(&client, &id).await?;
    quotas::run(&client, &owner, &format!("/keys/{id}/quotas"), &args.set, &args.remote).await
}

/// The id of the organisation that a key belongs to.
async fn owner_of(client: &Client, id: &str) -> Result<String, CommandRefused> {
    let owner = ids(&client.organisations(Some(("api_key_id", id))).await?).pop();
    owner.ok_or_else(|| CommandRefused::usage(format!("there is no API key `{id}`")))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// The keys as a table. Organisations are shown by name, or by id where two have the same name.
fn render(keys: &[Value]) -> String {
    let mut named: HashMap<&str, &str> = HashMap::new();
    let shared: Vec<_> = keys
        .iter()
        .map(|key| (text(&key["org_name"]), text(&key["org_id"])))
        .filter_map(|(name, id)| (*named.entry(name).or_insert(id) != id).then_some(name))
        .collect();
    let row = |key: &Value| {
        let name = text(&key["org_name"]);
        let org = if shared.contains(&name) { text(&key["org_id"]) } else { name };
        let management = if key["management"] == true { " management" } else { "" };
        let dialect = format!("{}{management}", text(&key["dialect"]));
        let scopes: Vec<_> = key["scopes"].as_array().into_iter().flatten().map(text).collect();
        let scopes = scopes.join(",");
        let cell = |field: &str| text(&key[field]);
        [cell("api_key_id"), org, &dialect, &scopes, cell("name"), cell("created_at"), cell("expires_at"), cell("state")]
            .map(str::to_owned)
            .to_vec()
    };
    table(&["id", "org", "dialect", "scopes", "name", "created", "expires", "state"], keys.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_a_table_and_organisations_of_one_name_are_told_apart() {
        let key = |n: u32, org: (u32, &str), dialect: &str, expires: Option<&str>, state: &str| {
            json!({
                "api_key_id": format!("key_{n:032x}"), "org_id": format!("org_{:032x}", org.0), "org_name": org.1,
                "dialect": dialect, "management": n == 3, "scopes": (if n == 3 { ["manage"].as_slice() } else { &["read", "write"] }), "name": (n == 1).then_some("nightly"),
                "created_at": "2026-11-24T15:06:00.000Z", "expires_at": expires, "revoked_at": null, "state": state,
            })
        };
        let keys = [
            key(1, (0, "Operator"), "openai", None, "active"),
            key(2, (7, "Acme"), "batchrouter", Some("2026-11-25T15:06:00.000Z"), "expired"),
            key(3, (8, "Acme"), "phaseo", None, "revoked"),
        ];
        insta::assert_snapshot!(render(&keys));
    }
}
