//! The `keepstone` binary: command line, configuration, logging, signals.

mod files;
mod identities;
mod up;

use clap::{Parser, Subcommand};
use node::operator::Operator;
use node::{drives, recover, settings};
use protocol::{DriveId, GroupId, NodeId, ReplicaId};
use runtime::disk::Disk;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use up::Up;

/// Keepstone: an S3-compatible object store, erasure coded over drives, machines and availability zones.
#[derive(Parser)]
#[command(name = "keepstone", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is logged to stderr: error, warn, info, debug, or `crate=level` pairs
    #[arg(long, global = true, default_value = "warn", value_name = "FILTER")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    Up(Up),
    /// Format this node's drives as members of a NEW cluster. Only before the cluster's first start
    Bootstrap {
        /// The node's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Look at the groups of metadata, and replace their replicas on a drive that is gone
    Group {
        #[command(subcommand)]
        command: Group,
    },
    /// Make, list and end the identities that may sign requests of S3, beside the one in each node's own file
    Identity {
        #[command(subcommand)]
        command: identities::Identity,
    },
    /// Print the settings that all nodes of a running cluster share, as it was founded with them
    Settings {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run one node of a cluster
    Node {
        /// The node's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Write figures about this process to FILE as JSON every second
        #[arg(long, value_name = "FILE")]
        status_file: Option<PathBuf>,
    },
}

/// The longest wait for an answer of the cluster to its operator.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
enum Group {
    /// Print where the replicas of each group of a running cluster are, who leads, and what is being replaced
    Status {
        /// The configuration file of any node of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Replace the replicas on a drive that is gone for good by new ones on other drives, and wait until that is done.
    ///
    /// Say this only of a drive that will not come back with what it held: it is given no replica ever again. The
    /// groups must have a majority without it. It may be asked again, also after an interruption
    Replace {
        /// The configuration file of any node of the cluster that runs
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The drive's number, as `group status` prints it
        #[arg(long, value_name = "NUMBER")]
        drive: u64,
        /// Give up waiting after this time; the cluster goes on all the same
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
    /// Of nodes that do not run: print what these drives hold of each group, which replica a group without quorum would go on from, and what might be
    /// lost. Changes nothing
    Inspect {
        /// Folders of drives, of as many nodes as can be brought together
        #[arg(required = true, value_name = "DIR")]
        drives: Vec<PathBuf>,
    },
    /// Found a group anew from one replica, when most of its voters are lost FOR GOOD. Prints what is lost; changes nothing without --apply
    ///
    /// The last resort: commands that only the lost voters had are gone, also acknowledged ones. The nodes of the drives that are given
    /// must not run. Bring as many drives together as can be read; the group goes on from the newest replica among them, on its drive.
    /// Then start that node: the root group brings the other voters. For each group that has no quorum, the root group (0) first
    Recover {
        /// The group's number, as `group inspect` prints it
        #[arg(long, value_name = "NUMBER")]
        group: u64,
        /// The voters that will never come back with what they held, as `group inspect` prints them. With --from also some that are here, to give up what they hold
        #[arg(long, value_name = "REPLICA", value_delimiter = ',')]
        lost: Vec<u64>,
        /// The replica to go on from, instead of the best one
        #[arg(long, value_name = "REPLICA")]
        from: Option<u64>,
        /// Do it
        #[arg(long)]
        apply: bool,
        /// Folders of drives
        #[arg(required = true, value_name = "DIR")]
        drives: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(reason) = start_logging(&cli.log) {
        eprintln!("keepstone: --log: {reason}");
        return ExitCode::from(2);
    }
    if let Err(error) = runtime::process::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let outcome = runtime::process::block_on(async move {
        match cli.command {
            Command::Up(up) => run_up(up).await,
            Command::Bootstrap { config } => bootstrap(&config).await,
            Command::Group { command: Group::Inspect { drives } } => inspect_groups(&drives),
            Command::Group { command: Group::Recover { group, lost, from, apply, drives } } => {
                let lost = lost.into_iter().map(ReplicaId).collect();
                recover_group(GroupId(group), &recover::Wish { from: from.map(ReplicaId), lost }, apply, &drives)
            }
            Command::Group { command: Group::Status { config } } => group_status(&config).await,
            Command::Group { command: Group::Replace { config, drive, wait } } => {
                replace_drive(&config, DriveId(drive), Duration::from_secs(wait)).await
            }
            Command::Identity { command } => identities::run(command).await,
            Command::Settings { config } => shared_settings(&config).await,
            Command::Node { config, status_file } => run_node(&config, status_file).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("keepstone: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// s3s logs bodies and authorization headers: it stays silent, the gateway logs for itself.
fn start_logging(filter: &str) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(format!("{filter},s3s=off")).map_err(|error| error.to_string())?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

async fn run_up(up: Up) -> Result<(), String> {
    let status_file = up.status_file.clone();
    let running = up.start().await.map_err(|error| error.to_string())?;
    print!("{}", running.banner);
    run_until_stopped(running.node, status_file).await
}

async fn bootstrap(config: &Path) -> Result<(), String> {
    let config = files::read_node_config(config).map_err(|error| error.to_string())?;
    let bootstrap = settings::bootstrap(&config.cluster).map_err(|error| error.to_string())?;
    for drive in &config.drives {
        files::create_folder(drive).map_err(|error| error.to_string())?;
    }
    let node = NodeId(config.file.node);
    let slots = up::open_folders(node, &config.drives);
    drives::bootstrap(bootstrap.map.cluster, node, &slots).map_err(|error| error.to_string())?;
    println!("{} drives of node {node} belong to cluster {}", config.drives.len(), bootstrap.map.cluster);
    Ok(())
}

type Drives = Vec<(DriveId, Arc<dyn Disk>)>;

/// The drives in these folders, which nobody else uses from now on.
fn drives_at(paths: &[PathBuf]) -> Result<Drives, String> {
    let mut drives = Vec::new();
    for path in paths {
        let told = |reason: String| format!("{}: {reason}", path.display());
        if !files::exists(path) {
            return Err(told("there is no such folder".to_owned()));
        }
        let disk = runtime::disk::open_folder(path).map_err(|error| told(error.to_string()))?;
        match drive::inspect(&disk).map_err(|error| told(error.to_string()))? {
            drive::Found::Formatted(identity) if drives.iter().any(|(drive, _)| *drive == identity.drive) => {
                return Err(told(format!(
                    "it is drive {}, as another folder that is named: one of them is a copy, give the newer one",
                    identity.drive
                )));
            }
            drive::Found::Formatted(identity) => drives.push((identity.drive, disk)),
            _ => return Err(told("it is no drive of a cluster".to_owned())),
        }
    }
    Ok(drives)
}

fn inspect_groups(paths: &[PathBuf]) -> Result<(), String> {
    let (surveys, unreadable) = node::groups::survey(&drives_at(paths)?);
    surveys.iter().for_each(|survey| print!("{survey}"));
    unreadable.iter().for_each(|reason| println!("{reason}"));
    println!("drives that are not named here may hold newer replicas: bring all together that can be read before you decide");
    Ok(())
}

fn recover_group(group: GroupId, wish: &recover::Wish, apply: bool, paths: &[PathBuf]) -> Result<(), String> {
    let drives = drives_at(paths)?;
    let (surveys, unreadable) = node::groups::survey(&drives);
    unreadable.iter().for_each(|reason| println!("{reason}"));
    let survey = surveys.into_iter().find(|survey| survey.group == group).ok_or_else(|| recover::Refusal::Nothing.to_string())?;
    print!("{survey}");
    let plan =
        recover::plan(&survey, wish, runtime::time::wall_ms() / 1000, runtime::entropy::u64()).map_err(|refusal| refusal.to_string())?;
    print!("{plan}");
    if !apply {
        println!("nothing was changed; the same with --apply does it");
        return Ok(());
    }
    let done = recover::carry_out(&plan, &drives, &settings::ConsensusSettings::default())?;
    let to = plan.refounding.whole_to;
    let new = done.members.voters.first().map_or(ReplicaId(0), |voter| voter.replica);
    println!(
        "group {group} goes on as replica {new} on {}, with all entries to {to}: start its node; the root group brings other voters",
        plan.label
    );
    println!("see `keepstone group status`; say of each drive that is gone: keepstone group replace --drive NUMBER");
    Ok(())
}

fn operator(config: &Path) -> Result<Operator, String> {
    let config = files::read_node_config(config).map_err(|error| error.to_string())?;
    let bootstrap = settings::bootstrap(&config.cluster).map_err(|error| error.to_string())?;
    Ok(Operator::new(&bootstrap, config.secret))
}

async fn group_status(config: &Path) -> Result<(), String> {
    let status = operator(config)?.status(runtime::time::now() + ANSWER_WAIT).await.map_err(|error| error.to_string())?;
    print!("{status}");
    Ok(())
}

async fn shared_settings(config: &Path) -> Result<(), String> {
    let config = files::read_node_config(config).map_err(|error| error.to_string())?;
    let configured = settings::bootstrap(&config.cluster).map_err(|error| error.to_string())?;
    let operator = Operator::new(&configured, config.secret);
    let founded = operator.founding(runtime::time::now() + ANSWER_WAIT).await.map_err(|error| error.to_string())?;
    println!("id = \"{}\"", founded.map.cluster);
    println!("region = \"{}\"", founded.region);
    println!("scheme = \"{}\"", founded.scheme);
    println!("best_effort = {}", founded.best_effort);
    println!("partitions = {}", founded.partitions.len());
    for difference in founded.differences(&configured) {
        eprintln!("the cluster's file of this node differs: {difference}");
    }
    Ok(())
}

async fn replace_drive(config: &Path, drive: DriveId, wait: Duration) -> Result<(), String> {
    let operator = operator(config)?;
    let until = runtime::time::now() + wait;
    operator.lose_drive(drive, runtime::time::now() + ANSWER_WAIT).await.map_err(|error| error.to_string())?;
    let mut told = None;
    loop {
        // The root group may be changing itself just now: its answer can wait.
        if let Ok(status) = operator.status(runtime::time::now() + ANSWER_WAIT).await {
            let left = status.left_on(drive);
            if told != Some(left) {
                println!("drive {drive}: {left} replicas left to replace");
                told = Some(left);
            }
            if left == 0 {
                return Ok(());
            }
        }
        if runtime::time::now() >= until {
            return Err(format!("drive {drive} is noted as lost, and not all of its replicas are replaced; see `keepstone group status`"));
        }
        runtime::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn run_node(config: &Path, status_file: Option<PathBuf>) -> Result<(), String> {
    let config = files::read_node_config(config).map_err(|error| error.to_string())?;
    up::check_credentials(&config.credentials)?;
    let bootstrap = settings::bootstrap(&config.cluster).map_err(|error| error.to_string())?;
    let node = NodeId(config.file.node);
    let (s3, configured) = (&config.file.s3, bootstrap.region.clone());
    let mut gateway = up::gateway_settings(s3.listen, &bootstrap.region, &config.credentials, s3.domains.clone(), s3.presigned_v2);
    gateway.bytes_max = s3.bytes_max;
    let settings = settings::Settings {
        node,
        secret: config.secret.clone(),
        bootstrap,
        listens: true,
        gateway,
        consensus: consensus::Settings::within(config.file.metadata.bytes_max),
        lifecycle_every: settings::LIFECYCLE_EVERY,
        machine: ::node::node::machine,
    };
    let slots = up::open_folders(node, &config.drives);
    let running = node::Node::start(settings, slots).await.map_err(|error| error.to_string())?;
    println!("node {node} runs; waiting for a quorum of the root group");
    let waiting = async {
        let endpoint = running.ready().await.map_err(|error| error.to_string())?;
        println!("node {node} serves S3 at http://{endpoint}");
        if let Some(founded) = running.region().filter(|founded| *founded != configured) {
            eprintln!("keepstone: the cluster's file says region {configured}: the cluster was founded with {founded}, which is served");
        }
        Ok::<(), String>(())
    };
    runtime::select! {
        stopped = runtime::process::stop_requested() => { stopped.map_err(|error| error.to_string())?; return shut_down(running).await; }
        served = waiting => served?,
    }
    run_until_stopped(running, status_file).await
}

async fn run_until_stopped(node: node::Node, status_file: Option<PathBuf>) -> Result<(), String> {
    let status = async {
        match &status_file {
            Some(path) => loop {
                if let Err(error) = files::write_status(path, &node::status::figures(&node)) {
                    tracing::warn!(%error, "status file");
                }
                runtime::time::sleep(Duration::from_secs(1)).await;
            },
            None => std::future::pending::<()>().await,
        }
    };
    runtime::select! {
        stopped = runtime::process::stop_requested() => stopped.map_err(|error| error.to_string())?,
        () = status => {}
    }
    shut_down(node).await
}

async fn shut_down(node: node::Node) -> Result<(), String> {
    eprintln!("keepstone: stopping");
    if runtime::time::timeout(Duration::from_secs(10), node.shut_down()).await.is_err() {
        eprintln!("keepstone: did not stop within 10 s; what was acknowledged is durable all the same");
    }
    Ok(())
}
