#!/usr/bin/env bash
# Make /scratch on the NVMe disks of an EC2 instance, as one RAID 0. Deep learning images have mounted them before, at
# /opt/dlami/nvme; an instance without such disks gets a folder on its root disk. Run again, it changes nothing.
set -euo pipefail
scratch=${1:-/scratch}
[ -e "$scratch" ] && exit

if mountpoint -q /opt/dlami/nvme; then
    sudo ln -s /opt/dlami/nvme "$scratch"
else
    sudo mkdir "$scratch"
    mapfile -t disks < <(lsblk -dpno NAME,MODEL | awk '/NVMe Instance Storage/ {print $1}')
    if ((${#disks[@]})); then
        sudo mdadm --create /dev/md0 --run --force --level=0 --raid-devices="${#disks[@]}" "${disks[@]}"
        sudo mkfs.ext4 -q -m 0 /dev/md0
        sudo mount -o noatime /dev/md0 "$scratch"
    fi
fi
sudo chmod 1777 "$scratch/"
