#!/bin/sh
# Carry miil21k to a machine without a network: weights, packages and a script that installs both.
#
#     sh examples/air_gapped.sh pack AIR            # on a machine with a network: makes the folder AIR
#     sh examples/air_gapped.sh install AIR PHOTO   # on the other one: installs from AIR, and answers a photograph
#
# `install` runs without any network where the system can take it away (unshare), so that it proves itself anywhere.
# Needs: pip install "miil21k[embedded]" to pack; Python with venv to install.
# Exit code: that of the step that failed.
set -eu
what=$1
air=$2
case $what in
pack)
    mkdir -p "$air"
    miil21k bundle create embedded -o "$air/net.tar" --installer embedded # and AIR/download.sh, AIR/install.sh
    sh "$air/download.sh"                                                # the packages, as wheels into AIR/wheels
    ;;
install)
    photo=$3
    alone=
    if unshare -rn true 2>/dev/null; then alone="unshare -rn"; fi
    $alone sh "$air/install.sh" # checks every digest; the environment is AIR/env
    $alone "$air/env/bin/miil21k-predict" "$photo" -m embedded --offline -f csv | cut -d, -f 1,2,8,11
    ;;
*)
    echo "air_gapped.sh pack AIR, or air_gapped.sh install AIR PHOTO" >&2
    exit 2
    ;;
esac
