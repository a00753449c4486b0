"""Zero-shot retrieval with the encoders as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from convirt import files
from convirt.errors import InputError
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    import pandas as pd

    from convirt.search import Parts, Search
    from convirt.store import Store

READS = [
    "seed",
    "compute.device",
    "compute.threads",
    "model.baselines",
    "retrieval.dataset",
    "retrieval.corpus",
    "retrieval.index",
    "retrieval.k",
]
SHOWN = 5  # images in a gallery row

app = typer.Typer(add_completion=False)


@app.command()
def main(
    system: str = typer.Argument(help="An objective, or one of model.baselines."),
    params: Path = PARAMS,
) -> None:
    """Retrieve images by image, and by text where there is a text encoder; score by Precision@k.

    Image-image compares h, the image encoder's output; text-image compares the projections v and
    u. Both rank all candidates by cosine in double precision. If retrieval.index is hnsw, they use
    an approximate index, and the share of the nearest that it found stands beside the scores.

    Reads data/stores/<retrieval.dataset> and models/encoders/SYSTEM (for an objective, the encoders
    for the corpus retrieval.corpus). Writes metrics/retrieval/SYSTEM.json and
    data/retrieval/SYSTEM/: gallery.png (per class one query of each kind and its nearest images),
    rankings.parquet and embeddings.safetensors (h of all images of the store).
    """
    names = {"system": system}
    with Stage(__file__, reads=READS, names=names, params=params) as stage:
        import torch

        from convirt import approximate, checkpoint, devices, gallery, provenance
        from convirt import search as searching
        from convirt.pair_encoder import load_encoders
        from convirt.store import Store

        p = stage.params
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        where = Path("data") / "stores" / p.retrieval.dataset
        store = Store.open(stage.root / where)
        parts = searching.parts_of(store, where)
        folder = stage.encoder_of(system, p.retrieval.corpus)
        image, config, pair = load_encoders(folder)
        if pair is None and not len(parts.queries):
            raise _sentences_alone(system, where)
        for module in filter(None, (image, pair)):
            module.to(p.compute.device).eval()
        with stage.progress(f"encode with {system}", len(store.images), "images") as bar:

            def tick(count: int) -> None:
                bar.update(count)
                stage.poll()

            h = searching.encode(store.images, image, config, p.compute.device, report=tick)
        ranker = None
        if p.retrieval.index == "hnsw":
            ranker = partial(approximate.top_k, threads=p.compute.threads)
        searches = searching.search(store, parts, h, pair, p.retrieval.k, ranker)
        stage.confirm()
        with files.fresh_directory(stage.root / "data" / "retrieval" / system) as out:
            gallery.draw(_gallery(store, parts, searches), out / "gallery.png")
            files.write_parquet(out / "rankings.parquet", _rankings(store, parts, searches))
            checkpoint.save_safetensors(out / "embeddings.safetensors", {"h": torch.from_numpy(h)})
        pretrained = None if system in p.model.baselines else p.retrieval.corpus
        about = {"system": system, "dataset": p.retrieval.dataset, "corpus": pretrained}
        inputs = {"store": store.meta["digest"], "encoder": files.sha256_of_folder(folder)}
        files.write_json(
            stage.root / "metrics" / "retrieval" / f"{system}.json",
            {**about, **_metrics(parts, searches), "provenance": stage.provenance(inputs)},
        )
        for search in searches:
            scores = [f"P@{k} {value:.3f}" for k, value in search.result.precision.items()]
            scores += [f"{key.replace('_at_', '@')} {x:.3f}" for key, x in _recall(search).items()]
            stage.say(f"{system} {search.direction}: {'  '.join(scores)}")


def _sentences_alone(system: str, where: Path) -> InputError:
    return InputError(
        where,
        f"image queries, since {system} has no text encoder",
        "sentences alone",
        f"take {system} out of retrieval.systems, or add image queries",
    )


def _metrics(parts: Parts, searches: list[Search]) -> dict[str, Any]:
    """Precision@k by direction, and the recall of an approximate ranking."""
    return {
        search.direction: {
            **{f"p_at_{k}": value for k, value in search.result.precision.items()},
            **_recall(search),
            **{f"highest_at_{k}": x for k, x in search.result.highest.items() if x < 1},
            "chance": search.result.chance,
            "queries": len(search.names),
            "candidates": len(parts.candidates),
        }
        for search in searches
    }


def _recall(search: Search) -> dict[str, float]:
    """`recall_at_<largest k>`, where the ranking is approximate."""
    result = search.result
    return {} if result.recall is None else {f"recall_at_{max(result.precision)}": result.recall}


def _rankings(store: Store, parts: Parts, searches: list[Search]) -> pd.DataFrame:
    """One row per direction, query and rank: which candidate, and whether it is right."""
    import numpy as np
    import pandas as pd

    # as objects: an array of strings would give each as much space as the longest needs
    names = store.records["image"].to_numpy(object)[parts.candidates]
    labels = store.records["label"].to_numpy(object)[parts.candidates]
    tables = []
    for search in searches:
        found = search.result.ranking
        count, depth = found.shape
        table = pd.DataFrame(
            {
                "direction": search.direction,
                "query": np.repeat(np.asarray(search.names, object), depth),
                "query_label": np.repeat(np.asarray(search.labels, object), depth),
                "rank": np.tile(np.arange(1, depth + 1), count),
                "candidate": names[found.ravel()],
                "candidate_label": labels[found.ravel()],
            }
        )
        tables.append(table.assign(right=table["query_label"] == table["candidate_label"]))
    return pd.concat(tables, ignore_index=True)


def _gallery(store: Store, parts: Parts, searches: list[Search]) -> list[tuple[Any, Any]]:
    """Per class, the first image query and the first text query, with what they found."""
    import numpy as np

    from convirt.gallery import Row

    label = store.records["label"].to_numpy(str)
    ours = {search.direction: search for search in searches}

    def row(direction: str, name: str) -> Row | None:
        search = ours.get(direction)
        if search is None or name not in search.labels:
            return None
        i = int(np.flatnonzero(search.labels == name)[0])
        found = parts.candidates[search.result.ranking[i, :SHOWN]]
        query = search.names[i] if direction == "text_image" else store.images[parts.queries[i]]
        return Row(
            name,
            query,
            tuple(store.images[j] for j in found),
            tuple(bool(label[j] == name) for j in found),
        )

    return [
        (row("image_image", name), row("text_image", name))
        for name in sorted({name for search in searches for name in search.labels.tolist()})
    ]


if __name__ == "__main__":
    app()
