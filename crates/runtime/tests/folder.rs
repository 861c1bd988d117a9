//! Drives in real folders.
#![cfg(not(madsim))]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of real files")]

use runtime::disk::{Error, Lane, Open, open_folder, run};
use std::sync::Arc;

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let first = open_folder(folder.path()).unwrap();
    let refused = open_folder(folder.path()).err().unwrap();
    assert!(refused.to_string().contains("another process has it open"), "{refused}");
    drop(first);
    open_folder(folder.path()).unwrap();
}

#[test]
fn bytes_names_and_lengths_are_those_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open_folder(folder.path()).unwrap();
    assert!(matches!(disk.open("a", Open::Existing), Err(Error::NotFound { .. })));
    disk.create_folder("logs").unwrap();
    disk.create_folder("logs").unwrap();
    let file = disk.open("logs/a", Open::New).unwrap();
    assert!(matches!(disk.open("logs/a", Open::New), Err(Error::Exists { .. })));
    file.write_at(5, b"hello").unwrap();
    file.sync().unwrap();
    disk.sync_dir("logs").unwrap();
    let mut read = [9; 10];
    file.read_at(0, &mut read).unwrap();
    assert_eq!(&read, b"\0\0\0\0\0hello");
    assert!(matches!(file.read_at(1, &mut read), Err(Error::Io { .. })), "past the end");
    file.allocate(8192).unwrap();
    assert_eq!(file.len().unwrap(), 8192);
    file.punch(0, 4096).unwrap();
    file.read_at(0, &mut read).unwrap();
    assert_eq!(read, [0; 10]);
    disk.rename("logs/a", "logs/b").unwrap();
    let names: Vec<_> = disk.list("logs").unwrap().into_iter().map(|entry| (entry.name, entry.bytes)).collect();
    assert_eq!(names, [("b".to_string(), 8192)]);
    disk.remove("logs/b").unwrap();
    assert!(disk.list("logs").unwrap().is_empty() && disk.list("nowhere").unwrap().is_empty());
    assert!(disk.list("").unwrap().is_empty(), "the lock file is nobody's business");
    assert!(disk.space().unwrap().free > 0);
}

#[test]
fn a_replaced_folder_or_superblock_closes_the_drive_and_its_files() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("drive");
    for replaces_folder in [true, false] {
        std::fs::create_dir(&path).unwrap();
        let disk = open_folder(&path).unwrap();
        let file = disk.open("superblock", Open::New).unwrap();
        disk.watch("superblock").unwrap();
        disk.verify().unwrap();
        if replaces_folder {
            std::fs::rename(&path, above.path().join("elsewhere")).unwrap();
            std::fs::create_dir(&path).unwrap();
        } else {
            std::fs::remove_file(path.join("superblock")).unwrap();
            std::fs::write(path.join("superblock"), b"another").unwrap();
        }
        assert!(matches!(disk.verify(), Err(Error::Closed { .. })));
        assert!(matches!(file.write_at(0, b"x"), Err(Error::Closed { .. })));
        assert!(disk.closed().unwrap().contains("replaced"));
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn jobs_run_on_threads_of_the_drive() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open_folder(folder.path()).unwrap();
    let names = runtime::process::block_on(async {
        let jobs = (0..8).map(|_| run(&disk, || std::thread::current().name().map(str::to_string)));
        futures::future::join_all(jobs).await
    });
    assert!(names.iter().flatten().all(|name| name.starts_with("drive-")), "{names:?}");
    // The last handle may be dropped by a job of the drive itself.
    let own = Arc::clone(&disk);
    disk.submit(Lane::Work, Box::new(move || drop(own)));
    drop(disk);
}

#[test]
fn neither_links_nor_names_lead_out_of_the_folder() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("a"), b"not ours").unwrap();
    std::os::unix::fs::symlink(outside.path().join("a"), folder.path().join("a")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("sub")).unwrap();
    let disk = open_folder(folder.path()).unwrap();
    for name in ["a", "sub/a", "../a", "/etc/passwd", "sub/../a", "lock", "", "."] {
        assert!(disk.open(name, Open::OrNew).is_err(), "{name}");
        assert!(disk.rename(name, "b").is_err() || name == "a", "{name}");
    }
    assert!(disk.list("sub").is_err() && disk.create_folder("sub").is_err());
    assert_eq!(std::fs::read(outside.path().join("a")).unwrap(), b"not ours");
}

#[test]
fn a_drive_whose_folder_moved_writes_to_no_other_and_stays_locked_while_a_file_is_open() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("drive");
    std::fs::create_dir(&path).unwrap();
    let disk = open_folder(&path).unwrap();
    std::fs::rename(&path, above.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&path).unwrap();
    let file = disk.open("a", Open::New).unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "nothing is written to what took its place");
    drop(disk);
    assert!(open_folder(&above.path().join("elsewhere")).is_err(), "a file is still open");
    drop(file);
    open_folder(&above.path().join("elsewhere")).unwrap();
}

#[test]
fn a_job_that_panics_leaves_the_threads_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open_folder(folder.path()).unwrap();
    for _ in 0..10 {
        disk.submit(Lane::Work, Box::new(|| panic!("as the test wants")));
    }
    assert_eq!(runtime::process::block_on(async { run(&disk, || 7).await }), 7);
}
