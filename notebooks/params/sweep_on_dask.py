"""The runs of 03_new_classes over many seeds on a Dask cluster; those that are there already are not trained again.

    python notebooks/params/sweep_on_dask.py notebooks/params/omniglot.yaml

With the cluster below, this machine's cores. For SLURM put ``dask_jobqueue.SLURMCluster(cores=4, processes=4,
memory="16GB", walltime="02:00:00")`` in its place and call ``cluster.scale(jobs=10)``; all workers must see the folder
NCBOOK_RUNS. Networks of one process take turns, so a process per core. A worker that dies, or a job that runs out of
time, costs what it did since its last checkpoint.
"""

import sys

import yaml
from dask.distributed import Client, LocalCluster

import ncbook

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        base = ncbook.Experiment(**yaml.safe_load(file))
    experiments = [
        base.replace(n_source=n_source, class_seed=seed, seed=seed) for n_source in (8, 16, 32, 64) for seed in range(3)
    ]
    with LocalCluster(threads_per_worker=1) as cluster, Client(cluster) as client:
        table = ncbook.sweep(experiments, client.get_executor(), threads=1)
    table.to_csv("sweep.csv", index=False)
    last = table[(table["split"] == "novel") & (table["epoch"] == table.groupby("directory")["epoch"].transform("max"))]
    print(last.pivot_table(index="n_source", columns="metric", values="value", aggfunc=["mean", "std"]))
