#!/bin/sh
# Your own images with your own hierarchy, from the tree to predictions that know where to stop. About a minute.
set -eu
here=$(dirname "$0")
work=${1:-own_hierarchy_run}

python "$here/make_images.py" "$work"
miil21k tree show "$here/shapes.csv"

miil21k train "$work/train" --val "$work/val" --label-space "$here/shapes.csv" -m test_resnet --from-scratch \
    -o "$work/run" --epochs 12 --batch-size 32 --lr 1e-2 --image-size 32 --precision fp32 -j 1 \
    --set policy= --set cutout=0 --set hflip=0.5 --resume

# Images that the model was not trained on tell how sure it may say it is.
miil21k calibrate "$work/calibration" -m "$work/run/best.safetensors" --target 0.9 -o "$work/calibration.json"

# On other images again: "hedged correct" is what --target promised.
miil21k validate "$work/test" -m "$work/run/best.safetensors" --calibration "$work/calibration.json" \
    --hedge 0.9 -f table -o "$work/validation"

miil21k predict "$work/photos" --checkpoint "$work/run/best.safetensors" --calibration "$work/calibration.json" \
    --hedge 0.9 -f table
