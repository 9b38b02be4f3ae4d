#!/bin/busybox sh
# Process 1 until the host's files are the root; then `xtask vm init` is.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in $($b cat /modules); do $b insmod "/lib/$module"; done
$b mount -t virtiofs -o ro root /lower
$b mount -t tmpfs -o mode=755 written /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root
if [ -e /modules-of ]; then
    $b mkdir -p /root/lib/modules
    $b mount -o bind "/lower$($b cat /modules-of)" /root/lib/modules
fi
$b cp /berth-vm.json /root/
for dir in dev proc sys; do $b mount -o move "/$dir" "/root/$dir"; done
exec $b switch_root /root "$($b cat /program)" vm init
