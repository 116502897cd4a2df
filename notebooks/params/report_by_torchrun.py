"""The report on a folder of images too large for one process: each GPU, or each process, takes its part.

    torchrun --nproc-per-node 4 notebooks/params/report_by_torchrun.py pictures resnet18

``torchrun --nproc-per-node 4 -m ncbook.report pictures --model resnet18 --html report.html`` does it without a line
of code; here the images come from a ``DataLoader`` of your own. Its part has to be this process's alone: a
``DistributedSampler`` would repeat a few images to make all parts equally long, and count them twice.
"""

import os
import sys

import torch
from torch import distributed
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import ncbook

if __name__ == "__main__":
    folder, model = sys.argv[1:3]
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    images = ImageFolder(folder, v2.Compose([v2.PILToTensor(), v2.Resize(256), v2.CenterCrop(256)]))  # uint8
    mine = Subset(images, range(rank, len(images), world))
    report = ncbook.report(model, DataLoader(mine, batch_size=128, num_workers=2), device="cuda" if cuda else "cpu")
    if rank == 0:
        print(report.summary[["metric", "value", "low", "high", "n", "over"]].to_string(index=False))
        report.to_html("report.html")
    distributed.destroy_process_group()
