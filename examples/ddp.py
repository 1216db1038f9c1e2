"""Train on several processes: `torchrun --nproc-per-node 2 examples/ddp.py`.

K-FAC finds the processes of the DistributedDataParallel by itself. In the end all replicas are bit-equal.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from pipeline.training import KFACOptimizer, KFACSettings


def patterns(n: int) -> TensorDataset:
    """Noisy pictures of one random pattern per class."""
    rng = torch.Generator().manual_seed(0)
    classes, labels = torch.randn(5, 1, 8, 8, generator=rng), torch.randint(5, (n,), generator=rng)
    return TensorDataset(classes[labels] + torch.randn(n, 1, 8, 8, generator=rng), labels)


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    model = DistributedDataParallel(network)
    optimizer = KFACOptimizer(
        model, lr=0.05, momentum=0.9, settings=KFACSettings(damping=0.1, placement="memory")
    )
    data = patterns(240)
    sampler: DistributedSampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=20, sampler=sampler)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    replicas = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
    dist.all_gather(replicas, weights)
    if dist.get_rank() == 0:
        assert all(torch.equal(replica, weights) for replica in replicas)
        assert loss.item() < 0.5
        print(f"{len(replicas)} processes end with the same bits; last loss {loss.item():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
