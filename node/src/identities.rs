//! `keepstone identity`: who may sign requests, beside the identities that stand in nodes' files.

use crate::{ANSWER_WAIT, files};
use ::node::operator::{Issued, Operator};
use ::node::settings;
use clap::Subcommand;
use placement::Error;
use runtime::time::{Instant, now};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum Identity {
    /// Make an identity and print its access key and secret key.
    ///
    /// They are printed this once, as a file with credentials has them: the cluster keeps no secret key. There are no policies yet:
    /// whoever has these keys may read, write and delete everything
    Create {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What people call it, at most 64 bytes; nothing depends on it
        #[arg(long, value_name = "NAME", default_value = "")]
        name: String,
    },
    /// Print all identities; never a secret key
    List {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make another secret key for an identity and print it, this once. The former one is refused within 30 seconds
    Rotate {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As `identity list` prints it
        access_key: String,
    },
    /// Have what an identity signs refused within 30 seconds, until it is enabled again
    Disable {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As `identity list` prints it
        access_key: String,
    },
    /// Take requests of a disabled identity again
    Enable {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As `identity list` prints it
        access_key: String,
    },
    /// Remove an identity for good. What it signs is refused within 30 seconds
    Remove {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As `identity list` prints it
        access_key: String,
    },
}

/// Carry a command out. What is for programs goes to stdout, remarks to stderr.
pub async fn run(command: Identity) -> Result<(), String> {
    match command {
        Identity::Create { config, name } => {
            let (operator, _) = connect(&config, None)?;
            let issued = operator.create_identity(&name, wait()).await.map_err(|error| match error {
                Error::Unknown(_) => {
                    format!("{error}. Look at `keepstone identity list`: what stands there and was not printed can be removed")
                }
                other => other.to_string(),
            })?;
            show(&issued, "");
            eprintln!("There are no policies yet: whoever has these keys may read, write and delete everything.");
            Ok(())
        }
        Identity::List { config } => {
            let (operator, own) = connect(&config, None)?;
            print!("{}", operator.identities(wait()).await.map_err(|error| error.to_string())?);
            eprintln!("{own} stands in the file of the node whose configuration this is");
            Ok(())
        }
        Identity::Rotate { config, access_key } => {
            let (operator, _) = connect(&config, Some(&access_key))?;
            let issued = operator.rotate_identity(&access_key, wait()).await.map_err(|error| match error {
                Error::Unknown(_) => format!("{error}. Its secret key may be another one already: rotate again"),
                other => other.to_string(),
            })?;
            let still = if issued.identity.enabled { "" } else { " It is still disabled." };
            show(&issued, still);
            eprintln!("Within {} s no gateway takes the former secret key.", bound());
            Ok(())
        }
        Identity::Disable { config, access_key } => {
            let (operator, _) = connect(&config, Some(&access_key))?;
            operator.set_identity_enabled(&access_key, false, wait()).await.map_err(|error| late(&error))?;
            println!("{access_key} is disabled: within {} s no gateway takes what it signs", bound());
            Ok(())
        }
        Identity::Enable { config, access_key } => {
            let (operator, _) = connect(&config, Some(&access_key))?;
            operator.set_identity_enabled(&access_key, true, wait()).await.map_err(|error| late(&error))?;
            println!("{access_key} is enabled");
            Ok(())
        }
        Identity::Remove { config, access_key } => {
            let (operator, _) = connect(&config, Some(&access_key))?;
            operator.remove_identity(&access_key, wait()).await.map_err(|error| late(&error))?;
            println!("{access_key} is removed: within {} s no gateway takes what it signs", bound());
            Ok(())
        }
    }
}

/// What came of a change that failed, as far as that is known.
fn late(error: &Error) -> String {
    match error {
        Error::Unknown(_) => {
            format!(
                "{error}. It may take effect yet, even after a later change: look at `keepstone identity list` in a minute, and say it again"
            )
        }
        other => other.to_string(),
    }
}

/// The cluster, and the access key of the identity in the node's own file, which no command changes: `changed` must be another.
fn connect(config: &std::path::Path, changed: Option<&str>) -> Result<(Operator, String), String> {
    let config = files::read_node_config(config).map_err(|error| error.to_string())?;
    let bootstrap = settings::bootstrap(&config.cluster).map_err(|error| error.to_string())?;
    let own = config.credentials.access_key;
    if changed == Some(own.as_str()) {
        return Err(format!(
            "{own} stands in the node's file with credentials, {}: change it there",
            config.file.s3.credentials_file.display()
        ));
    }
    Ok((Operator::new(&bootstrap, config.secret), own))
}

fn show(issued: &Issued, remark: &str) {
    print!("{issued}");
    eprintln!(
        "The secret key is shown this once; a lost one is replaced with `keepstone identity rotate {}`.{remark}",
        issued.identity.access_key
    );
}

fn wait() -> Instant {
    now() + ANSWER_WAIT
}

fn bound() -> u64 {
    placement::IDENTITY_AGE_MAX.as_secs()
}
