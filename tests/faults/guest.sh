#!/bin/sh
# guest.sh: the first process of a virtual machine whose root is that of its host, mounted read-only, or in memory.
# Runs GUEST_SCRIPT in GUEST_TREE, with a disk of its own at /run/disk if GUEST_MODULE is the driver of that, says so
# if it ended well, and switches off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# finit_module of a compressed file; the program for it may not be installed
INSERT='import ctypes, os, sys; sys.exit(ctypes.CDLL(None).syscall(313, os.open(sys.argv[1], 0), b"", 4))'
export LANG=C.UTF-8 HOME=/run/home TMPDIR=/run/tmp PYTHONDONTWRITEBYTECODE=1

# Nobody waits for a machine that hangs
set -e
trap 'echo o >/proc/sysrq-trigger; sleep 60' EXIT
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /dev/pts /dev/shm /run/disk /run/home
mkdir -m 1777 /run/tmp
mount -t devpts -o ptmxmode=0666,mode=620 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +memory +cpu +pids >/sys/fs/cgroup/cgroup.subtree_control
if test -n "$GUEST_MODULE"; then
	"$GUEST_PYTHON" -c "$INSERT" "$GUEST_MODULE"
	mount -t ext4 /dev/vda /run/disk
fi
ip link set lo up

cd "$GUEST_TREE"
sh "$GUEST_SCRIPT"
echo 'guest: ended well'
