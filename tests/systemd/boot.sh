#!/bin/sh
# boot.sh WORK STAGE: becomes systemd, on a throw-away copy of this machine with STAGE's files laid over it.
# To be run as the first process of new pid, mount, uts, ipc, net and cgroup namespaces, in a cgroup of its own.
set -eu
work=$1 stage=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
root=$work/root
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
cp -a "$stage/etc" "$stage/usr" "$root"

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys" # the kernel's settings are the real machine's too
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

# Neither what else is installed here, nor what belongs to real hardware
units=$root/etc/systemd/system
rm -rf "$units"/*.wants
for unit in console-getty getty@tty1 ldconfig systemd-firstboot systemd-modules-load systemd-remount-fs \
	systemd-sysctl systemd-timesyncd systemd-udevd; do
	ln -sf /dev/null "$units/$unit.service"
done
ln -sf /usr/lib/systemd/system/multi-user.target "$units/default.target"

cd "$root"
mkdir -p old-root
pivot_root . old-root
umount -l /old-root
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=test \
	/usr/lib/systemd/systemd --system --log-target=journal </dev/null
