#!/usr/bin/env python3
"""Continue the training of faces64 from the averaged weights in this folder.

    python .training/train.py FACES MORE_FACES OUT [MINUTES]

FACES and MORE_FACES are folders of 16,384 and 28,672 faces; the last 1,024 of the first are held out. OUT is
a run folder, which is resumed; the features of the encoder are kept in it (2.8 GB, computed once). With two
processes, one for each core, a processor trains one and a half times as fast as with two threads:

    OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes 2 --num_machines 1 \
        --mixed_precision no --dynamo_backend no --main_process_port 0 \
        .training/train.py FACES MORE_FACES OUT MINUTES

Kernels beside this file make it about 1.6 times as fast again: `fast.py` on a processor with AMX, `fast32.py`
on others (AVX2).

The learning rate is constant. The last piece sets decay_share to 1 and `steps` or `minutes` to its budget.
"""
import sys
from pathlib import Path

import torch

from diffuseseg.data import load_images
from diffuseseg.models.encoders import load_encoder
from diffuseseg.train import TrainConfig, train
from diffuseseg.unet import load_model

if __name__ == '__main__':
    faces, more, out, *minutes = sys.argv[1:]
    if torch.cpu._is_amx_tile_supported(): from fast import patch
    else: from fast32 import patch
    patch()
    first = load_images(faces)
    images = torch.cat([first[:15_360], load_images(more)])
    start = load_model(Path(__file__).parent/'faces64.safetensors')
    config = TrainConfig(steps=10**7, batch_size=64, lr=4e-4, warmup_steps=300, decay_share=0, save_minutes=8)
    encoder = load_encoder('efficientnet-lite0', 'cpu')
    train(images, out, start.net.config, start.scheduler, config, start, encoder,
          pause_after=float(minutes[0]) if minutes else None, held_out=first[15_360:16_384], device='cpu')
