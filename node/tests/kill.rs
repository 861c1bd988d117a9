//! The real binary on real files, killed at any time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes and files")]

mod server;

use jepsen_like::s3::Content;
use runtime::process::block_on;
use server::{Up, folders};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Sizes on both sides of the inline border and of a blob.
const SIZES: [u64; 6] = [0, 1, 8 << 10, (8 << 10) + 1, 300_000, (8 << 20) + 5];

#[test]
fn what_was_acknowledged_is_there_after_kill_nine_and_nothing_else_is_half_there() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let tried: Arc<Mutex<BTreeMap<String, Content>>> = Arc::default();
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    for round in 0..4u64 {
        let up = Up::start(&data);
        let client = up.client();
        let stop = Arc::new(AtomicBool::new(false));
        block_on(async {
            if round == 0 {
                client.create_bucket("kill").await.unwrap();
            }
            let writers: Vec<_> = (0..4u64)
                .map(|writer| {
                    let (client, stop, tried, acknowledged) = (client.clone(), stop.clone(), tried.clone(), acknowledged.clone());
                    runtime::task::spawn(async move {
                        for number in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            let key = format!("{round}/{writer}/{number}");
                            let content =
                                Content::new(round << 32 | writer << 16 | number, SIZES[(number + writer) as usize % SIZES.len()]);
                            tried.lock().unwrap().insert(key.clone(), content);
                            if client.put("kill", &key, content).await.is_ok() {
                                acknowledged.lock().unwrap().push(key);
                            }
                        }
                    })
                })
                .collect();
            runtime::time::sleep(Duration::from_millis(700 + 330 * round)).await;
            up.kill();
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.await;
            }
        });
    }
    let up = Up::start(&data);
    let client = up.client();
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() > 20, "only {} writes were acknowledged", acknowledged.len());
    block_on(async {
        let tried = tried.lock().unwrap().clone();
        for (key, content) in &tried {
            match client.get_stream("kill", key).await {
                Ok(reply) => reply.verify(*content).await.unwrap_or_else(|error| panic!("{key}: {error}")),
                Err(error) => {
                    assert_eq!(error.code(), Some("NoSuchKey"), "{key}: {error}");
                    assert!(!acknowledged.contains(key), "{key} was acknowledged and is gone");
                }
            }
        }
    });
    up.stop();
}

#[test]
fn any_two_of_six_folders_may_be_lost_while_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data);
    put_all(&up);
    up.kill();
    let all = folders(&data);
    std::fs::remove_dir_all(&all[1]).unwrap();
    std::fs::remove_dir_all(&all[4]).unwrap();
    let up = Up::start(&data);
    assert!(up.printed.contains("drive-2") && up.printed.contains("drive-5"), "{}", up.printed);
    get_all(&up);
    refuses_to_write(&up, &["drive-2", "drive-5"]);
    assert!(!all[1].join("superblock-a").exists(), "a lost folder must not be formatted again");
}

#[test]
fn any_two_of_six_folders_may_be_lost_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data);
    put_all(&up);
    let all = folders(&data);
    std::fs::remove_dir_all(&all[0]).unwrap();
    std::fs::rename(&all[3], folder.path().join("elsewhere")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    get_all(&up);
    refuses_to_write(&up, &["drive-1", "drive-4"]);
    up.kill();
    // One comes back, the other does not: still read-only; nothing was formatted.
    std::fs::rename(folder.path().join("elsewhere"), &all[3]).unwrap();
    let up = Up::start(&data);
    get_all(&up);
    refuses_to_write(&up, &["drive-1"]);
}

fn objects() -> Vec<(String, Content)> {
    (0..12u64).map(|number| (format!("object-{number}"), Content::new(number, SIZES[number as usize % SIZES.len()]))).collect()
}

fn put_all(up: &Up) {
    block_on(async {
        let client = up.client();
        client.create_bucket("two").await.unwrap();
        for (key, content) in objects() {
            client.put("two", &key, content).await.unwrap();
        }
    });
}

fn get_all(up: &Up) {
    block_on(async {
        let client = up.client();
        for (key, content) in objects() {
            let reply = client.get_stream("two", &key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
            reply.verify(content).await.unwrap_or_else(|error| panic!("{key}: {error}"));
        }
        assert_eq!(client.list_all("two", "", 1000).await.unwrap().len(), 12);
    });
}

fn refuses_to_write(up: &Up, names: &[&str]) {
    block_on(async {
        let client = up.client();
        for bytes in [100, 100_000] {
            let error = client.put("two", "refused", Content::new(99, bytes)).await.unwrap_err();
            assert_eq!(error.status(), Some(503), "{error}");
            for name in names {
                assert!(error.to_string().contains(name), "{error} does not name {name}");
            }
        }
    });
}

#[test]
fn keys_are_made_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut printed = Vec::new();
    for _ in 0..2 {
        let mut command = server::keepstone();
        command.arg("up").arg("--data").arg(&data).arg("--listen").arg(format!("127.0.0.1:{}", server::free_port()));
        let (mut child, text) = server::spawn_until(command, "Ctrl-C").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let keys: Vec<String> = text.lines().filter(|line| line.contains(" key ")).map(str::to_string).collect();
        assert_eq!(keys.len(), 2, "{text}");
        assert!(text.contains("rs(4,2)"), "{text}");
        printed.push(keys);
    }
    assert_eq!(printed[0], printed[1]);
    for file in ["credentials.toml", "cluster.toml"] {
        assert_eq!(std::fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_strange_or_damaged_drive_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let other = folder.path().join("other");
    put_all(&{ Up::start(&data) });
    Up::start(&other).kill();
    let (ours, theirs) = (folders(&data), folders(&other));
    std::fs::remove_dir_all(&ours[0]).unwrap();
    std::fs::rename(&theirs[0], &ours[0]).unwrap();
    for entry in std::fs::read_dir(&ours[1]).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("superblock") {
            std::fs::write(entry.path(), vec![0xa5; 4096]).unwrap();
        }
    }
    let up = Up::start(&data);
    let line = |name: &str| up.printed.lines().find(|line| line.contains("REFUSED") && line.contains(name)).map(str::to_string);
    assert!(line("drive-1").is_some_and(|line| line.contains("cluster")), "{}", up.printed);
    assert!(line("drive-2").is_some_and(|line| line.contains("superblock")), "{}", up.printed);
    get_all(&up);
}

#[test]
fn a_drive_whose_raft_log_is_damaged_goes_on_with_its_shards() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    put_all(&{ Up::start(&data) });
    let log = folders(&data)[5].join("raft/log-0000000000000001.seg");
    let mut bytes = std::fs::read(&log).unwrap();
    // Two batches and more: who follows cannot name whose entries they held.
    bytes[512..16 << 10].fill(0xa5);
    std::fs::write(&log, bytes).unwrap();
    let inspect = |folders: &[std::path::PathBuf]| {
        let output = server::keepstone().args(["group", "inspect"]).args(folders).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = inspect(&folders(&data));
    assert!(told.lines().any(|line| line.contains("drive-6") && line.contains("log is damaged")), "{told}");
    assert!(told.contains("of 5 voters") && told.contains("every command that was acknowledged is known"), "{told}");
    assert!(!told.contains("UNKNOWN"), "{told}");
    assert!(inspect(&folders(&data)[..2]).contains("UNKNOWN: those who are not here"), "two of five tell little");
    let up = Up::start(&data);
    assert!(up.printed.lines().any(|line| line.contains("WITHOUT METADATA") && line.contains("drive-6")), "{}", up.printed);
    assert!(!up.printed.contains("REFUSED"), "{}", up.printed);
    get_all(&up);
    block_on(async {
        let client = up.client();
        client.put("two", "after", Content::new(7, 100_000)).await.unwrap();
        client.get_stream("two", "after").await.unwrap().verify(Content::new(7, 100_000)).await.unwrap();
    });
}

#[test]
fn two_processes_never_open_one_drive() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _up = Up::start(&data);
    let printed = Up::try_start(&data).err().expect("the second process must be refused");
    assert!(printed.contains("drive-1") && printed.contains("another process"), "{printed}");
}
