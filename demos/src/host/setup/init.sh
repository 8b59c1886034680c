#!/bin/busybox sh
# The first program of the stock guest. Word `trapline=batch` on the kernel's command line: use every CPU for a moment, say
# what came of it, and power off. Otherwise: a shell on the console; `poweroff` or leaving the shell ends the guest.

/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=${TERM:-vt100} PS1='trapline guest \w # '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
cd /root

# Drivers for what the machine has given this guest, in the order of their names.
for module in /modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done

# Without -f these ask an init that is not running; the shell reads this file when it starts.
export ENV=$HOME/.shrc
for command in poweroff reboot halt; do
    echo "alias $command='busybox $command -f'"
done > "$ENV"

# Every CPU hashes the same stream, alone and then through pipes that cross CPUs; all must agree.
workload() {
    cpus=$(nproc)
    echo "trapline: nproc=$cpus"
    cpu=0
    while [ "$cpu" -lt "$cpus" ]; do
        (
            taskset $(printf '%x' $((1 << cpu))) sh -c '
                for round in 1 2 3; do dd if=/dev/zero bs=16k count=24 2>/dev/null | sha256sum; done' \
                | uniq > "/tmp/pinned.$cpu"
            dd if=/dev/zero bs=16k count=72 2>/dev/null | cat | sha256sum > "/tmp/free.$cpu"
        ) &
        cpu=$((cpu + 1))
    done
    wait
    for kind in pinned free; do
        results=$(cat /tmp/$kind.* | wc -l)
        different=$(cat /tmp/$kind.* | sort -u | wc -l)
        if [ "$results" -ne "$cpus" ] || [ "$different" -ne 1 ]; then
            echo "trapline: workload failed: $kind: $results results for $cpus CPUs, $different different ones"
            return
        fi
    done
    echo "trapline: workload ok"
}

if grep -q 'trapline=batch' /proc/cmdline; then
    workload
else
    echo
    echo "Debian's arm64 Linux under Trapline, $(nproc) CPUs. Leave with poweroff, or Ctrl-A x from outside."
    setsid cttyhack sh
fi
poweroff -f
