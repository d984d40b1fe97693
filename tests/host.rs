//! What is found out about this process's machine, on trees of files as the kernel has them, and on
//! the machine of the test.
#![cfg(all(feature = "host", target_os = "linux"))]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use leasehold::Host;

const MIB: u64 = 1 << 20;

/// What a v1 group without a limit has.
const V1_UNLIMITED: &str = "9223372036854771712\n";

/// `/proc/self/mountinfo` where only v2 is mounted.
const V2_MOUNT: &str = "\
22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

/// The same where v1 is, with a folder for each controller.
const V1_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw shared:11 master:2 - cgroup cgroup rw,memory
";

/// A root file system in a folder of its own, gone when dropped.
struct Root(PathBuf);

impl Root {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("leasehold-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn of(test: &str, cgroup: &str, mountinfo: &str) -> Self {
        Self::new(test).file("proc/self/cgroup", cgroup).file("proc/self/mountinfo", mountinfo)
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).expect("a folder");
        fs::write(path, content).expect("a file");
        self
    }

    fn folder(self, path: &str) -> Self {
        fs::create_dir_all(self.0.join(path)).expect("a folder");
        self
    }

    #[track_caller]
    fn memory_is(&self, expected: Option<u64>) {
        assert_eq!(Host::memory_of_cgroups(&self.0), expected);
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn v2_has_the_limit_of_its_group() {
    Root::of("v2", "0::/app.slice\n", V2_MOUNT)
        .file("sys/fs/cgroup/app.slice/memory.max", "536870912\n")
        .file("sys/fs/cgroup/app.slice/memory.high", "max\n")
        .file("sys/fs/cgroup/other.slice/memory.max", "1048576\n")
        .memory_is(Some(512 * MIB));
}

#[test]
fn v2_has_the_smallest_limit_of_any_ancestor() {
    let root = || Root::of("v2-nested", "0::/a/b/c\n", V2_MOUNT);
    root()
        .file("sys/fs/cgroup/a/memory.max", "300\n")
        .file("sys/fs/cgroup/a/b/memory.max", "max\n")
        .file("sys/fs/cgroup/a/b/c/memory.max", "400\n")
        .memory_is(Some(300));
    // The top counts as well: in a container it is a group with a limit.
    root()
        .file("sys/fs/cgroup/memory.max", "100\n")
        .file("sys/fs/cgroup/a/memory.max", "300\n")
        .memory_is(Some(100));
    // What is below or beside does not.
    root()
        .file("sys/fs/cgroup/a/b/c/memory.max", "400\n")
        .file("sys/fs/cgroup/a/b/c/d/memory.max", "1\n")
        .file("sys/fs/cgroup/a/b/d/memory.max", "1\n")
        .file("sys/fs/memory.max", "1\n")
        .memory_is(Some(400));
}

#[test]
fn v2_counts_the_limit_above_which_it_is_slowed_down() {
    Root::of("v2-high", "0::/a\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.max", "500\n")
        .file("sys/fs/cgroup/a/memory.high", "450\n")
        .memory_is(Some(450));
}

#[test]
fn v2_without_a_limit_has_none() {
    Root::of("v2-max", "0::/a\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.max", "max\n")
        .file("sys/fs/cgroup/a/memory.high", "max\n")
        .memory_is(None);
}

#[test]
fn v2_in_a_container_has_the_limit_at_the_top() {
    // With a namespace of its own.
    Root::of("v2-namespace", "0::/\n", V2_MOUNT)
        .file("sys/fs/cgroup/memory.max", "200\n")
        .memory_is(Some(200));
    // Without one, the group has its full name, and is at the top of the mount.
    let mounts = "31 23 0:28 /docker/1f /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    Root::of("v2-bind", "0::/docker/1f/worker\n", mounts)
        .file("sys/fs/cgroup/memory.max", "200\n")
        .file("sys/fs/cgroup/worker/memory.max", "100\n")
        .memory_is(Some(100));
}

#[test]
fn v2_outside_of_the_namespace_has_the_limit_at_the_top() {
    // Entered from outside; the name leads nowhere, and must not lead out of the mount.
    Root::of("v2-outside", "0::/../../other\n", V2_MOUNT)
        .file("sys/fs/cgroup/memory.max", "200\n")
        .file("sys/other/memory.max", "1\n")
        .file("sys/memory.max", "1\n")
        .memory_is(Some(200));
    Root::of("v2-outside", "0::/..\n", V2_MOUNT)
        .file("sys/fs/cgroup/memory.max", "200\n")
        .file("sys/fs/memory.max", "1\n")
        .memory_is(Some(200));
    // Mounted outside, too.
    let mounts = "31 23 0:28 /.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    Root::of("v2-outside", "0::/../sibling\n", mounts)
        .file("sys/fs/cgroup/memory.max", "200\n")
        .file("sys/fs/cgroup/sibling/memory.max", "150\n")
        .memory_is(Some(150));
    // Inside of it, while the mount is of another group.
    let mounts = "31 23 0:28 /docker/1f /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    Root::of("v2-outside", "0::/\n", mounts)
        .file("sys/fs/cgroup/memory.max", "200\n")
        .memory_is(Some(200));
}

#[test]
fn a_mount_that_shows_the_group_is_preferred_to_one_that_does_not() {
    let mounts = "\
31 23 0:28 /docker/2e /elsewhere ro - cgroup2 cgroup rw
32 23 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup rw
";
    Root::of("v2-twice", "0::/docker/1f\n", mounts)
        .file("elsewhere/memory.max", "1\n")
        .file("sys/fs/cgroup/docker/1f/memory.max", "200\n")
        .memory_is(Some(200));
}

#[test]
fn v1_has_the_smallest_limit_of_any_ancestor() {
    let cgroup = "12:cpu,cpuacct:/cpu\n4:memory:/docker/1f\n1:name=systemd:/systemd\n";
    let root = || {
        Root::of("v1", cgroup, V1_MOUNTS)
            .file("sys/fs/cgroup/memory/memory.limit_in_bytes", V1_UNLIMITED)
            .file("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", V1_UNLIMITED)
            .file("sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes", "268435456\n")
            .file("sys/fs/cgroup/memory/cpu/memory.limit_in_bytes", "1\n")
            .file("sys/fs/cgroup/cpu,cpuacct/docker/1f/memory.limit_in_bytes", "1\n")
    };
    root().memory_is(Some(256 * MIB));
    root()
        .file("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "134217728\n")
        .memory_is(Some(128 * MIB));
    // The kernel says what it knows of ancestors, even of those out of sight.
    let stat = "cache 1\nhierarchical_memory_limit 67108864\nhierarchical_memsw_limit 1\n";
    root().file("sys/fs/cgroup/memory/docker/1f/memory.stat", stat).memory_is(Some(64 * MIB));
}

#[test]
fn v1_in_a_container_has_the_limit_at_the_top() {
    let mounts = "35 31 0:32 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    for cgroup in ["4:memory:/docker/1f\n", "4:memory:/\n", "4:memory:/../..\n"] {
        Root::of("v1-container", cgroup, mounts)
            .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "200\n")
            .memory_is(Some(200));
    }
}

#[test]
fn v1_without_a_limit_has_a_huge_one() {
    let root = Root::of("v1-unlimited", "4:memory:/\n", V1_MOUNTS)
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", V1_UNLIMITED);
    assert!(Host::memory_of_cgroups(&root.0).unwrap() > 1 << 62);
}

#[test]
fn a_hybrid_host_is_asked_for_both() {
    let mounts = "\
32 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
    let root = || {
        Root::of("hybrid", "4:memory:/old\n0::/new\n", mounts)
            .file("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "300\n")
    };
    root().folder("sys/fs/cgroup/unified/new").memory_is(Some(300));
    root().file("sys/fs/cgroup/unified/new/memory.max", "200\n").memory_is(Some(200));
    root().file("sys/fs/cgroup/unified/new/memory.max", "400\n").memory_is(Some(300));
    // Each hierarchy has names of its own.
    root().file("sys/fs/cgroup/unified/old/memory.max", "1\n").memory_is(Some(300));
}

#[test]
fn without_control_groups_there_is_no_limit() {
    Root::new("none").memory_is(None);
    Root::of("none", "", "").memory_is(None);
    Root::of("none", "0::/a\n", "").memory_is(None);
    Root::of("none", "", V2_MOUNT).file("sys/fs/cgroup/memory.max", "1\n").memory_is(None);
    Root::of("none", "0::/a\n", V2_MOUNT).memory_is(None);
    Path::new("/does/not/exist").exists().then(|| panic!("it exists"));
    assert_eq!(Host::memory_of_cgroups(Path::new("/does/not/exist")), None);
}

#[test]
fn a_group_that_was_removed_still_has_ancestors() {
    Root::of("removed", "0::/a/b (deleted)\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.max", "300\n")
        .memory_is(Some(300));
}

#[test]
fn garbage_is_no_limit_and_does_not_hide_one() {
    let garbage: [&[u8]; 10] = [
        b"",
        b"\n",
        b"-1\n",
        b"12 MiB\n",
        b"1e9\n",
        b"\xff\xfe\n",
        b"\0\n",
        b"18446744073709551616\n",
        b"99999999999999999999999999999999\n",
        b"1\n2\n",
    ];
    for content in garbage {
        let root = || {
            Root::of("garbage", "0::/a/b\n", V2_MOUNT).file("sys/fs/cgroup/a/b/memory.max", content)
        };
        root().memory_is(None);
        root().file("sys/fs/cgroup/a/memory.max", "300\n").memory_is(Some(300));
    }
    // A folder in the place of a file cannot be read.
    Root::of("unreadable", "0::/a\n", V2_MOUNT)
        .folder("sys/fs/cgroup/a/memory.max")
        .file("sys/fs/cgroup/a/memory.high", "300\n")
        .memory_is(Some(300));
}

#[test]
fn numbers_are_read_with_or_without_the_end_of_a_line() {
    for (content, expected) in [
        ("300", 300),
        ("300\n", 300),
        (" 300 \r\n", 300),
        ("0\n", 0),
        ("18446744073709551615\n", u64::MAX),
    ] {
        Root::of("numbers", "0::/a\n", V2_MOUNT)
            .file("sys/fs/cgroup/a/memory.max", content)
            .memory_is(Some(expected));
    }
}

#[test]
fn garbage_about_groups_and_mounts_is_skipped() {
    let cgroup = b"\xff\xfe\n::::\n0\n0:\n:memory\n\n0::/a:b\n".as_slice();
    let mountinfo = b"\
\xff\n\n31\n31 23 0:28 /\n31 23 0:28 / /x - \n31 23 0:28 / /x rw cgroup2\n\
31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
        .as_slice();
    Root::new("garbage-lines")
        .file("proc/self/cgroup", cgroup)
        .file("proc/self/mountinfo", mountinfo)
        .file("sys/fs/cgroup/a:b/memory.max", "300\n")
        .memory_is(Some(300));
}

#[test]
fn mounts_may_have_any_name() {
    let mounts = r"31 23 0:28 /a\040b /mnt/c\040d\134\011 rw - cgroup2 none rw";
    Root::of("escapes", "0::/a b/c\n", mounts)
        .file("mnt/c d\\\t/c/memory.max", "300\n")
        .memory_is(Some(300));
}

/// The line of a file in `/proc` that begins with `key`, without it.
fn line_of(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).expect("Linux has it");
    text.lines().find_map(|line| line.strip_prefix(key)).expect("Linux has it").trim().to_owned()
}

fn physical_memory() -> u64 {
    let kib = line_of("/proc/meminfo", "MemTotal:");
    kib.trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
}

#[test]
fn this_machine_is_as_the_kernel_says() {
    let host = Host::detect().expect("Linux tells");
    let groups = Host::memory_of_cgroups(Path::new("/")).unwrap_or(u64::MAX);
    assert_eq!(host.memory(), physical_memory().min(groups));
    assert_eq!(host.budget(), host.memory() / 8);

    let limits = line_of("/proc/self/limits", "Max open files");
    let soft = limits.split_whitespace().next().unwrap();
    let expected = if soft == "unlimited" { 1 << 20 } else { soft.parse().unwrap() };
    assert_eq!(host.fds(), expected);
}

/// A group that this test made, gone when dropped.
struct Group(PathBuf);

impl Group {
    /// Fails where the process may not, and where there are no control groups.
    fn new(parent: &Path, name: &str) -> std::io::Result<Self> {
        let path = parent.join(format!("leasehold-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Limits it, in whichever version of control groups this is.
    fn limit(&self, bytes: u64) -> std::io::Result<()> {
        let files = ["memory.max", "memory.limit_in_bytes"].map(|file| self.0.join(file));
        let file = files.iter().find(|file| file.exists());
        fs::write(file.ok_or(std::io::ErrorKind::NotFound)?, bytes.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Two nested groups as the kernel makes them, read as a process in the inner one would. No process
/// is moved, so that this can run anywhere, and leaves those who watch over this one alone.
#[test]
fn the_files_of_a_real_group_are_understood() {
    let mounts = [
        ("/sys/fs/cgroup/memory", "4:memory", "cgroup cgroup rw,memory"),
        ("/sys/fs/cgroup", "0:", "cgroup2 cgroup2 rw"),
    ];
    for (top, hierarchy, kind) in mounts {
        let Ok(outer) = Group::new(Path::new(top), "outer") else { continue };
        let Ok(()) = outer.limit(256 * MIB) else { continue };
        let Ok(inner) = Group::new(&outer.0, "inner") else { continue };
        let path = inner.0.strip_prefix(top).unwrap().display();
        // `/` in the place of the test's root, so that the limits come from the kernel.
        let membership = format!("{hierarchy}:/{path}\n");
        let mount = format!("31 23 0:28 / /sys{top} rw - {kind}\n");
        let root = Root::of("real", &membership, &mount);
        std::os::unix::fs::symlink("/", root.0.join("sys")).expect("a link");
        root.memory_is(Some(256 * MIB));
        return;
    }
    eprintln!(
        "NOT TESTED on real control groups: this process may not make any with a memory limit. \
         Run it as root where /sys/fs/cgroup can be written."
    );
    // What can be said of this machine all the same: no group it is in allows more than it has.
    assert!(Host::detect().unwrap().memory() <= physical_memory());
}

/// A process in a real group, as in a container. It has to be moved there, and whoever runs this
/// test may have put it where it is for a reason: so only into a group that was made for it, such as
/// by `systemd-run --user --scope -p Delegate=yes`, and named in `LEASEHOLD_TEST_CGROUP`.
#[test]
fn a_process_in_a_real_group_has_its_limit() {
    let Some(parent) = env::var_os("LEASEHOLD_TEST_CGROUP") else {
        eprintln!(
            "NOT TESTED in a real control group: name one in LEASEHOLD_TEST_CGROUP in which this \
             test may make others, and put processes."
        );
        // The same process, where it is: asking twice gives the same answer.
        assert_eq!(ask_a_child(None), Host::detect().unwrap().memory());
        return;
    };
    let group = Group::new(Path::new(&parent), "process").expect("a group in the one given");
    group.limit(96 * MIB).expect("a group that can limit memory");
    assert_eq!(ask_a_child(Some(&group.0)), 96 * MIB);
}

/// What [`Host::detect`] says in another process, which joins a group first.
fn ask_a_child(group: Option<&Path>) -> u64 {
    let mut child = Command::new(env::current_exe().expect("this test"));
    child.args(["--exact", "a_process_has_some_memory", "--nocapture"]);
    if let Some(group) = group {
        child.env("LEASEHOLD_TEST_JOIN", group.join("cgroup.procs"));
    }
    let output = child.output().expect("a process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let answer = text.lines().find_map(|line| line.split_once("memory="));
    answer.unwrap_or_else(|| panic!("no answer: {text}")).1.parse().expect("a number")
}

/// The tests above run this in a process of its own, which may join a group first.
#[test]
fn a_process_has_some_memory() {
    if let Some(procs) = env::var_os("LEASEHOLD_TEST_JOIN") {
        fs::write(procs, std::process::id().to_string()).expect("the group can be joined");
    }
    let memory = Host::detect().expect("Linux tells").memory();
    assert!(memory > 0);
    println!("memory={memory}");
}
