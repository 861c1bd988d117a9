//! The `keepstone` binary: command line, configuration, logging, signals.

mod files;
mod up;

use clap::{Parser, Subcommand};
use node::{drives, settings};
use protocol::NodeId;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
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
    /// Look at the groups of metadata on drives whose nodes do not run
    Group {
        #[command(subcommand)]
        command: Group,
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

#[derive(Subcommand)]
enum Group {
    /// Print what these drives hold of each group, which replica a group without quorum would go on from, and what might be
    /// lost. Changes nothing
    Inspect {
        /// Folders of drives, of as many nodes as can be brought together
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

fn inspect_groups(paths: &[PathBuf]) -> Result<(), String> {
    let mut drives = Vec::new();
    for path in paths {
        let told = |reason: String| format!("{}: {reason}", path.display());
        if !files::exists(path) {
            return Err(told("there is no such folder".to_owned()));
        }
        let disk = runtime::disk::open_folder(path).map_err(|error| told(error.to_string()))?;
        match drive::inspect(&disk).map_err(|error| told(error.to_string()))? {
            drive::Found::Formatted(identity) => drives.push((identity.drive, disk)),
            _ => return Err(told("it is no drive of a cluster".to_owned())),
        }
    }
    let (surveys, unreadable) = node::groups::survey(&drives);
    surveys.iter().for_each(|survey| print!("{survey}"));
    unreadable.iter().for_each(|reason| println!("{reason}"));
    println!("drives that are not named here may hold newer replicas: bring all together that can be read before you decide");
    Ok(())
}

async fn run_node(config: &Path, status_file: Option<PathBuf>) -> Result<(), String> {
    let config = files::read_node_config(config).map_err(|error| error.to_string())?;
    up::check_credentials(&config.credentials)?;
    let bootstrap = settings::bootstrap(&config.cluster).map_err(|error| error.to_string())?;
    let node = NodeId(config.file.node);
    let s3 = &config.file.s3;
    let mut gateway = up::gateway_settings(s3.listen, &s3.region, &config.credentials, s3.domains.clone(), s3.presigned_v2);
    gateway.bytes_max = s3.bytes_max;
    let settings = settings::Settings {
        node,
        secret: config.secret.clone(),
        bootstrap,
        listens: true,
        gateway,
        consensus: Default::default(),
        machine: ::node::node::machine,
    };
    let slots = up::open_folders(node, &config.drives);
    let running = node::Node::start(settings, slots).await.map_err(|error| error.to_string())?;
    println!("node {node} runs; waiting for a quorum of the root group");
    let waiting = async {
        let endpoint = running.ready().await.map_err(|error| error.to_string())?;
        println!("node {node} serves S3 at http://{endpoint}");
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
