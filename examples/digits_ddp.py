"""Data-parallel training of a small network on handwritten digits, logged from every rank.

Four processes each hold a quarter of scikit-learn's digits and the same network, in plain
NumPy. At every step each computes the gradient of its own batch; the gradients are averaged
between the processes; all take the same step. Each logs what it sees: one run, four ranks.

    python examples/digits_ddp.py                                  # starts four ranks
    torchrun --nproc-per-node 4 examples/digits_ddp.py             # or let a launcher do it
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing as mp
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The ranks share the cores: one BLAS thread each. NumPy reads this when it is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

try:
    import numpy as np
    from sklearn.datasets import load_digits

    import monarch_like
except ImportError as error:
    sys.exit(f"this example needs {error.name}: pip install 'expman-mesh[demo]'")

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

CLASSES = 10
ACCURACY_WANTED = 0.9
PEER_TIMEOUT_SECS = 60.0


# --- the processes of one launch --------------------------------------------------------------


class Peers:
    """The other ranks: rank 0 in the middle, a loopback connection to each of them."""

    def __init__(self, rank: int, world_size: int, address: tuple[str, int]) -> None:
        self.rank = rank
        self.world_size = world_size
        if rank == 0:
            with Listener(address, backlog=world_size) as listener:
                self._links = [listener.accept() for _ in range(world_size - 1)]
        else:
            self._links = [_connect(address)]

    def average(self, vector: Array) -> Array:
        """The mean of every rank's `vector`, the same bits on each of them."""
        if self.rank == 0:
            total = vector.copy()
            for link in self._links:
                total += np.frombuffer(_receive(link), dtype=np.float32)
            total /= self.world_size
            for link in self._links:
                link.send_bytes(total.tobytes())
            return total
        self._links[0].send_bytes(vector.tobytes())
        return np.frombuffer(_receive(self._links[0]), dtype=np.float32)

    def wait(self) -> None:
        """Returns when every rank has come here."""
        self.average(np.zeros(1, dtype=np.float32))


def _connect(address: tuple[str, int]) -> Connection:
    """Rank 0 may start last, so this tries until it listens."""
    deadline = time.monotonic() + PEER_TIMEOUT_SECS
    while True:
        try:
            return Client(address)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _receive(link: Connection) -> bytes:
    if not link.poll(PEER_TIMEOUT_SECS):
        raise TimeoutError(f"a peer sent no gradient for {PEER_TIMEOUT_SECS:.0f} s")
    return link.recv_bytes()


# --- the network ------------------------------------------------------------------------------


class Network:
    """A perceptron with two hidden layers whose weights all live in one flat vector."""

    def __init__(self, hidden: int, seed: int) -> None:
        sizes = (64, hidden, hidden, CLASSES)
        self.shapes = [s for a, b in zip(sizes, sizes[1:]) for s in ((a, b), (b,))]
        self.weights: Array = np.zeros(sum(int(np.prod(s)) for s in self.shapes), np.float32)
        random = np.random.default_rng(seed)
        for layer in self.split(self.weights)[::2]:
            layer[:] = random.normal(0, np.sqrt(2 / layer.shape[0]), layer.shape)

    def split(self, vector: Array) -> list[Array]:
        """Views of `vector` as weight and bias of each layer."""
        ends = np.cumsum([np.prod(shape) for shape in self.shapes])[:-1]
        return [v.reshape(shape) for v, shape in zip(np.split(vector, ends), self.shapes)]

    def forward(self, images: Array) -> list[Array]:
        """What each layer hands on; the last are the logits."""
        parts = self.split(self.weights)
        layers = [images]
        for weight, bias in zip(parts[::2], parts[1::2]):
            layers.append(np.maximum(layers[-1], 0) @ weight + bias)
        return layers

    def gradient(self, images: Array, labels: NDArray[np.int64]) -> tuple[float, float, Array]:
        """Loss and accuracy on a batch, and the gradient as one flat vector."""
        layers = self.forward(images)
        rows = np.arange(len(labels))
        odds = np.exp(layers[-1] - layers[-1].max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        loss = float(-np.log(odds[rows, labels] + 1e-12).mean())
        accuracy = float((odds.argmax(axis=1) == labels).mean())

        flat = np.empty_like(self.weights)
        into, parts = self.split(flat), self.split(self.weights)
        error = odds
        error[rows, labels] -= 1
        error /= len(labels)
        for i in reversed(range(len(parts) // 2)):
            into[2 * i][:] = np.maximum(layers[i], 0).T @ error
            into[2 * i + 1][:] = error.sum(axis=0)
            if i:
                error = (error @ parts[2 * i].T) * (layers[i] > 0)
        return loss, accuracy, flat

    def save(self, path: Path) -> None:
        names = [f"{part}{i}" for i in range(len(self.shapes) // 2) for part in ("weight", "bias")]
        parts: dict[str, Any] = dict(zip(names, self.split(self.weights)))
        np.savez(path, **parts)


class Adam:
    """The optimizer; the same on every rank, since all see the same gradients."""

    def __init__(self, size: int, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.mean = np.zeros(size, np.float32)
        self.square = np.zeros(size, np.float32)
        self.steps = 0

    def step(self, weights: Array, gradient: Array) -> None:
        self.steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        rate = self.learning_rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        weights -= rate * self.mean / (np.sqrt(self.square) + 1e-8)


# --- the digits -------------------------------------------------------------------------------


def digits(seed: int) -> tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]:
    """Images and labels to train on, images and labels held out (one in five)."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images = (images[order] / 16).astype(np.float32)
    labels = labels[order].astype(np.int64)
    held = len(labels) // 5
    return images[held:], labels[held:], images[:held], labels[:held]


def jitter(images: Array, random: np.random.Generator) -> Array:
    """The same digits, moved by up to one pixel and a little noisy: never the same batch twice."""
    moved = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    rows, columns = random.integers(0, 3, (2, len(images), 1, 1))
    grid = np.arange(8)
    pick = np.arange(len(images))[:, None, None]
    moved = moved[pick, rows + grid[None, :, None], columns + grid[None, None, :]]
    noisy: Array = moved.reshape(-1, 64) + random.normal(0, 0.1, images.shape).astype(np.float32)
    return noisy


# --- one rank ---------------------------------------------------------------------------------


def train(rank: int, world_size: int, address: tuple[str, int], args: argparse.Namespace) -> None:
    peers = Peers(rank, world_size, address)
    images, labels, held_images, held_labels = digits(args.seed)
    batches = max(1, len(images) // world_size // args.batch)  # as many on every rank
    images, labels = images[rank::world_size], labels[rank::world_size]
    random = np.random.default_rng([args.seed, rank])
    network = Network(args.hidden, args.seed)
    optimizer = Adam(network.weights.size, args.learning_rate)
    step = 0

    # The scratch folder outlives the run: artifacts are copied in the background until close.
    scratch = tempfile.TemporaryDirectory()
    with scratch, monarch_like.init("digits", base_dir=args.base_dir) as exp:
        if rank == 0:
            exp.log_params({**vars(args), "world_size": world_size, "optimizer": "adam"})
            exp.info(f"{network.weights.size:,} weights, {len(images)} images on each rank")
            say(f"run: {exp.run_dir}")

        for epoch in range(1, args.epochs + 1):
            order = random.permutation(len(images))
            for batch in np.array_split(order[: batches * args.batch], batches):
                began = time.perf_counter()
                loss, accuracy, mine = network.gradient(
                    jitter(images[batch], random), labels[batch]
                )
                optimizer.step(network.weights, peers.average(mine))
                step += 1
                exp.log_metrics(
                    {
                        "loss": loss,
                        "accuracy": accuracy,
                        "step_time_ms": (time.perf_counter() - began) * 1000,
                        "grad_norm": float(np.linalg.norm(mine)),
                    },
                    step=step,
                )

            part = slice(rank, None, world_size)
            right = network.forward(held_images[part])[-1].argmax(axis=1) == held_labels[part]
            counts = np.array([right.sum(), right.size], dtype=np.float32)
            held_right, held_total = peers.average(counts)
            held_accuracy = float(held_right / held_total)
            exp.log_metrics({"held_out_accuracy": held_accuracy}, step=step)
            say(
                f"[{rank}] epoch {epoch}/{args.epochs} step {step} loss {loss:.4f} "
                f"accuracy {accuracy:.3f} held-out {held_accuracy:.3f}"
            )

        if rank == 0:
            exp.log_scalar("held_out_accuracy", held_accuracy)
            model = Path(scratch.name) / "model.npz"
            network.save(model)
            exp.save_artifact(str(model))
            report = exp.flush(timeout=30).wait()
            say(f"flush: {report}")
        peers.wait()  # nobody leaves before the flush has seen all of them
        if rank == 0 and held_accuracy <= ACCURACY_WANTED:
            raise SystemExit(
                f"held-out accuracy {held_accuracy:.3f} is not above {ACCURACY_WANTED}: "
                "train longer with --epochs"
            )


def say(line: str) -> None:
    """Prints a line in one write, so that the lines of several ranks stay whole."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- all ranks --------------------------------------------------------------------------------


def start_ranks(args: argparse.Namespace) -> int:
    """Starts the ranks as processes, as a launcher does; the exit code is the worst of theirs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    ranks = [
        context.Process(target=_as_rank, args=(rank, port, args), name=f"rank {rank}", daemon=True)
        for rank in range(args.ranks)
    ]
    with _stopped_at_exit(ranks):
        for process in ranks:
            process.start()
        alive = list(ranks)
        while alive:
            wait([process.sentinel for process in alive])
            alive = [process for process in alive if process.is_alive()]
            failed = [process for process in ranks if process.exitcode]
            if failed:
                print(f"{failed[0].name} ended with {failed[0].exitcode}", file=sys.stderr)
                return 1
    return 0


def _as_rank(rank: int, port: int, args: argparse.Namespace) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(args.ranks),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(args.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    train(rank, args.ranks, ("127.0.0.1", port), args)


@contextlib.contextmanager
def _stopped_at_exit(processes: Sequence[BaseProcess]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join(timeout=10)


def _from_launcher() -> tuple[int, int, tuple[str, int]]:
    """Rank, world size and meeting point, when torchrun or the like has started this process."""
    port = int(os.environ.get("MASTER_PORT", "29500"))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        port += 1  # torchrun's agent listens on the port itself
    address = (os.environ.get("MASTER_ADDR", "127.0.0.1"), port)
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), address


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Data-parallel digits, logged from every rank.")
    parser.add_argument("--ranks", type=int, default=4, help="processes to start")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32, help="images in a rank's batch")
    parser.add_argument("--hidden", type=int, default=512, help="neurons in a hidden layer")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--base-dir", default="experiments", help="where runs are kept")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, world_size, address = _from_launcher()
        train(rank, world_size, address, args)
        return 0
    return start_ranks(args)


if __name__ == "__main__":
    sys.exit(main())
