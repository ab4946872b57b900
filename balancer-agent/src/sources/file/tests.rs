//! The source against a real directory and real inotify events.

use super::*;
use std::{fs, os::unix::fs::symlink};
use tempfile::TempDir;

/// Long enough that only a missing event is caught by it.
const NEVER: Duration = Duration::from_secs(30);

struct Fixture {
    dir: TempDir,
    handle: FileHandle,
    updates: mpsc::Receiver<FileUpdate>,
}

fn text(rank: u32) -> String {
    format!("version: 1\nnode: {{rank: {rank}}}\n")
}

impl Fixture {
    /// Runs the source on `balancer.yaml` of a directory that `prepare` filled.
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (source, handle) = FileSource::new(&dir.path().join("balancer.yaml")).unwrap();
        let (sender, updates) = mpsc::channel(1);
        tokio::spawn(source.run(sender));
        Self { dir, handle, updates }
    }

    fn with_rank(rank: u32) -> Self {
        Self::start(|dir| fs::write(dir.join("balancer.yaml"), text(rank)).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, content: impl AsRef<[u8]>) {
        fs::write(self.path("balancer.yaml"), content).unwrap();
    }

    async fn next(&mut self) -> FileUpdate {
        tokio::time::timeout(NEVER, self.updates.recv()).await.unwrap().unwrap()
    }

    #[track_caller]
    fn rank(update: FileUpdate) -> u32 {
        match update {
            FileUpdate::Loaded { config, .. } => config.node_rank.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn expect_rank(&mut self, rank: u32) {
        assert_eq!(Self::rank(self.next().await), rank);
    }

    async fn expect_rejection(&mut self, part: &str) {
        match self.next().await {
            FileUpdate::Rejected(error) => {
                let error = error.to_string();
                assert!(error.contains(part) && error.contains("hint: "), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_write_in_place_is_seen() {
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    fixture.write(text(2));
    fixture.expect_rank(2).await;
}

#[tokio::test]
async fn a_rename_over_the_file_is_seen_again_and_again() {
    let mut fixture = Fixture::with_rank(0);
    fixture.expect_rank(0).await;
    for rank in 1..20 {
        fs::write(fixture.path(".balancer.yaml.swp"), text(rank)).unwrap();
        fs::rename(fixture.path(".balancer.yaml.swp"), fixture.path("balancer.yaml")).unwrap();
        fixture.expect_rank(rank).await;
    }
    assert_eq!((fixture.handle.loaded(), fixture.handle.rejected()), (20, 0));
}

#[tokio::test]
async fn the_symlink_swap_of_a_config_map_is_seen() {
    let publish = |dir: &Path, rank: u32| {
        let data = format!("..{rank}");
        fs::create_dir(dir.join(&data)).unwrap();
        fs::write(dir.join(&data).join("balancer.yaml"), text(rank)).unwrap();
        symlink(&data, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    let mut fixture = Fixture::start(|dir| {
        publish(dir, 1);
        symlink("..data/balancer.yaml", dir.join("balancer.yaml")).unwrap();
    });
    fixture.expect_rank(1).await;
    for rank in 2..6 {
        publish(fixture.dir.path(), rank);
        fs::remove_dir_all(fixture.path(&format!("..{}", rank - 1))).unwrap();
        fixture.expect_rank(rank).await;
    }
    assert_eq!(fixture.handle.rejected(), 0);
}

#[tokio::test]
async fn a_write_behind_a_symlink_is_seen() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, text(1)).unwrap();
    let mut fixture = Fixture::start(|dir| symlink(&target, dir.join("balancer.yaml")).unwrap());
    fixture.expect_rank(1).await;
    fs::write(&target, text(2)).unwrap();
    fixture.expect_rank(2).await;
}

#[tokio::test]
async fn a_deleted_file_is_told_and_its_return_is_seen() {
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    fs::remove_file(fixture.path("balancer.yaml")).unwrap();
    fixture.expect_rejection("No such file").await;
    fixture.write(text(2));
    fixture.expect_rank(2).await;
}

#[tokio::test]
async fn a_file_that_is_replaced_by_deleting_it_is_no_rejection() {
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    fs::remove_file(fixture.path("balancer.yaml")).unwrap();
    fixture.write(text(2));
    fixture.expect_rank(2).await;
    assert_eq!(fixture.handle.rejected(), 0);
}

#[tokio::test]
async fn a_directory_that_appears_later_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc/balancer/balancer.yaml");
    let (source, handle) = FileSource::new(&path).unwrap();
    let (sender, updates) = mpsc::channel(1);
    tokio::spawn(source.run(sender));
    let mut fixture = Fixture { dir, handle, updates };
    fixture.expect_rejection("No such file").await;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text(1)).unwrap();
    fixture.expect_rank(1).await;
}

#[tokio::test]
async fn a_bad_file_is_told_once_and_the_good_one_after_it() {
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    fixture.write("version: 1\nnode: {rank: high}\n");
    let expected = "balancer.yaml:2:14: node.rank: expected `auto` or a whole number";
    fixture.expect_rejection(expected).await;
    // The same content again is not told; other bad content is.
    fixture.write("version: 1\nnode: {rank: high}\n");
    fixture.write("version: 3\n");
    fixture.expect_rejection("version 3").await;
    fixture.write(text(1));
    fixture.expect_rank(1).await;
    assert_eq!((fixture.handle.loaded(), fixture.handle.rejected()), (2, 2));
}

#[tokio::test]
async fn a_bad_file_at_the_start_is_told() {
    let mut fixture = Fixture::start(|dir| fs::write(dir.join("balancer.yaml"), "").unwrap());
    fixture.expect_rejection("the document is empty").await;
    fixture.write(text(1));
    fixture.expect_rank(1).await;
}

#[tokio::test]
async fn a_reload_is_always_answered() {
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    fixture.handle.reload();
    assert!(matches!(fixture.next().await, FileUpdate::Unchanged));
    fixture.write("no: 1\n");
    fixture.expect_rejection("there is no key `no`").await;
    fixture.handle.reload();
    fixture.expect_rejection("there is no key `no`").await;
    assert_eq!(fixture.handle.loaded(), 1);
    fixture.write(text(2));
    fixture.expect_rank(2).await;
    fixture.handle.reload();
    assert!(matches!(fixture.next().await, FileUpdate::Unchanged));
}

#[tokio::test]
async fn what_is_no_text_file_is_refused() {
    let mut fixture = Fixture::start(|dir| fs::create_dir(dir.join("balancer.yaml")).unwrap());
    fixture.expect_rejection("is not a regular file").await;
    fs::remove_dir(fixture.path("balancer.yaml")).unwrap();
    fixture.write(b"version: 1 # \xff");
    fixture.expect_rejection("byte 13 is wrong").await;
    let large = File::create(fixture.path("large")).unwrap();
    large.set_len(FILE_BYTES_MAX + 1).unwrap();
    fs::rename(fixture.path("large"), fixture.path("balancer.yaml")).unwrap();
    fixture.expect_rejection("is larger than").await;
}

#[tokio::test]
async fn a_slow_writer_is_waited_for() {
    use std::io::Write;
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    // Half of it is a whole document, which must not be taken for the file.
    let mut file = File::create(fixture.path("balancer.yaml")).unwrap();
    file.write_all(b"version: 1\n").unwrap();
    tokio::task::yield_now().await;
    file.write_all(b"node: {rank: 2}\n").unwrap();
    drop(file);
    fixture.expect_rank(2).await;
    assert_eq!(fixture.handle.loaded(), 2);
}

#[tokio::test]
async fn sizes_need_a_restart() {
    let mut fixture = Fixture::with_rank(1);
    fixture.expect_rank(1).await;
    fixture.write("version: 1\nlimits: {connections: 10}\n");
    let FileUpdate::Loaded { restart_needed, .. } = fixture.next().await else {
        panic!("rejected")
    };
    assert_eq!(restart_needed, ["limits"]);
    fixture.write(text(3));
    let FileUpdate::Loaded { restart_needed, .. } = fixture.next().await else {
        panic!("rejected")
    };
    assert!(restart_needed.is_empty());
}
