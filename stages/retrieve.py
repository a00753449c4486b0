"""Zero-shot retrieval with the encoders as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from convirt import files
from convirt.errors import InputError
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from convirt.image_encoder import ImageConfig
    from convirt.pair_encoder import PairEncoder
    from convirt.retrieval import Retrieval
    from convirt.store import Store

READS = ["seed", "compute.device", "compute.threads", "retrieval"]
BASELINE = "imagenet"
SHOWN = 5  # images of a gallery row

app = typer.Typer(add_completion=False)


class Search(NamedTuple):
    """One set of queries put to the candidates through one encoder."""

    encoder: str
    direction: str
    names: list[str]
    labels: np.ndarray
    result: Retrieval


class Parts(NamedTuple):
    """Positions of a store's image queries and candidates, and its text queries."""

    queries: np.ndarray
    candidates: np.ndarray
    texts: pd.DataFrame | None


@app.command()
def main(params: Path = PARAMS) -> None:
    """Retrieve images by image and by text, and score it by Precision@k.

    Image-image compares h, the encoder's output, for ConVIRT and for ImageNet weights;
    text-image compares the projections v and u. All by cosine, over all candidates, in float32.

    Reads data/stores/<retrieval.dataset>, models/encoders/convirt/<retrieval.corpus> and
    models/encoders/imagenet. Writes metrics/retrieval.json and data/retrieval/: gallery.png (per
    class one query of each kind and its nearest images) and rankings.parquet.
    """
    with Stage(__file__, reads=READS, params=params) as stage:
        from convirt import devices, gallery, provenance
        from convirt.image_encoder import load_image_encoder
        from convirt.pair_encoder import load_pair_encoder
        from convirt.store import Store

        p = stage.params
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        store = Store.open(stage.root / "data" / "stores" / p.retrieval.dataset)
        parts = _parts(store, Path("data") / "stores" / p.retrieval.dataset)
        folder = stage.root / "models" / "encoders"
        pair = load_pair_encoder(folder / "convirt" / p.retrieval.corpus)
        baseline, config = load_image_encoder(folder / BASELINE)
        pair.to(p.compute.device).eval()
        searches = _search_pair(store, parts, pair, p.retrieval.k, p.compute.device)
        h = _encode(store, baseline.to(p.compute.device).eval(), config, p.compute.device)
        searches += _search_images(BASELINE, store, parts, h, p.retrieval.k)
        stage.confirm()
        with files.fresh_directory(stage.root / "data" / "retrieval") as out:
            gallery.draw(_gallery(store, parts, searches), out / "gallery.png")
            files.write_parquet(out / "rankings.parquet", _rankings(store, parts, searches))
        values = _metrics(parts, searches)
        about = {"dataset": p.retrieval.dataset, "corpus": p.retrieval.corpus}
        made_by = stage.provenance({"store": store.meta["digest"]})
        files.write_json(
            stage.root / "metrics" / "retrieval.json", {**values, **about, "provenance": made_by}
        )
        for search in searches:
            scores = "  ".join(f"P@{k} {value:.3f}" for k, value in search.result.precision.items())
            stage.say(f"{search.encoder} {search.direction}: {scores}")


def _parts(store: Store, where: Path) -> Parts:
    """Tell queries from candidates.

    Raises:
        InputError: It is no retrieval store, or it lacks candidates or queries.
    """
    import numpy as np

    role = store.records.get("role")
    if role is None:
        kind = f"a store of kind {store.meta['kind']}"
        hint = "name a retrieval set in retrieval.dataset"
        raise InputError(where, "a retrieval set", kind, hint)
    queries = np.flatnonzero(role == "query")
    texts = store.queries if store.queries is not None and len(store.queries) else None
    parts = Parts(queries, np.flatnonzero(role == "candidate"), texts)
    if not len(parts.candidates) or (not len(queries) and texts is None):
        count = 0 if texts is None else len(texts)
        found = f"{len(parts.candidates)} candidates, {len(queries)} images, {count} sentences"
        raise InputError(where, "candidates, and images or sentences as queries", found, "add them")
    return parts


def _encode(store: Store, encoder: nn.Module, config: ImageConfig, device: str) -> np.ndarray:
    """The encoder's output h for all images of a store, (N, width) float32."""
    import numpy as np
    import torch

    from convirt.image_encoder import to_input

    blocks = []
    with torch.inference_mode():
        for start in range(0, len(store.images), 256):
            images = torch.from_numpy(np.array(store.images[start : start + 256])).to(device)
            blocks.append(encoder(to_input(images, config)).float().cpu().numpy())
    return np.concatenate(blocks)


def _search_images(
    encoder: str, store: Store, parts: Parts, h: np.ndarray, ks: tuple[int, ...]
) -> list[Search]:
    """Image-image on h; nothing if there are no image queries."""
    from convirt.retrieval import retrieve

    if not len(parts.queries):
        return []
    label = store.records["label"].to_numpy(str)
    labels = label[parts.queries]
    result = retrieve(h[parts.queries], h[parts.candidates], labels, label[parts.candidates], ks)
    names = store.records["image"].iloc[parts.queries].tolist()
    return [Search(encoder, "image_image", names, labels, result)]


def _search_pair(
    store: Store, parts: Parts, pair: PairEncoder, ks: tuple[int, ...], device: str
) -> list[Search]:
    """Image-image on h and text-image on v and u, of a ConVIRT encoder."""
    import torch

    from convirt.retrieval import retrieve

    h = _encode(store, pair.image_encoder, pair.image_config, device)
    searches = _search_images("convirt", store, parts, h, ks)
    if parts.texts is not None:
        sentences = parts.texts["text"].tolist()
        with torch.inference_mode():
            candidates = torch.from_numpy(h[parts.candidates]).to(device)
            v = pair.project_image(candidates).cpu().numpy()
            u = pair.project_text(pair.encode_sentences(sentences)).cpu().numpy()
        labels = parts.texts["label"].to_numpy(str)
        candidate_labels = store.records["label"].to_numpy(str)[parts.candidates]
        result = retrieve(u, v, labels, candidate_labels, ks)
        searches.append(Search("convirt", "text_image", sentences, labels, result))
    return searches


def _metrics(parts: Parts, searches: list[Search]) -> dict[str, Any]:
    """Precision@k by direction; those of the baseline under its name."""
    values: dict[str, Any] = {}
    for search in searches:
        place = values if search.encoder == "convirt" else values.setdefault(search.encoder, {})
        place[search.direction] = {
            **{f"p_at_{k}": value for k, value in search.result.precision.items()},
            "chance": search.result.chance,
            "queries": len(search.names),
            "candidates": len(parts.candidates),
        }
    return values


def _rankings(store: Store, parts: Parts, searches: list[Search]) -> pd.DataFrame:
    """One row an encoder, direction, query and rank: which candidate, and whether it is right."""
    import numpy as np
    import pandas as pd

    names = store.records["image"].to_numpy(str)[parts.candidates]
    labels = store.records["label"].to_numpy(str)[parts.candidates]
    tables = []
    for search in searches:
        found = search.result.ranking
        count, depth = found.shape
        table = pd.DataFrame(
            {
                "encoder": search.encoder,
                "direction": search.direction,
                "query": np.repeat(search.names, depth),
                "query_label": np.repeat(search.labels, depth),
                "rank": np.tile(np.arange(1, depth + 1), count),
                "candidate": names[found.ravel()],
                "candidate_label": labels[found.ravel()],
            }
        )
        tables.append(table.assign(right=table["query_label"] == table["candidate_label"]))
    return pd.concat(tables, ignore_index=True)


def _gallery(store: Store, parts: Parts, searches: list[Search]) -> list[tuple[Any, Any]]:
    """Per class the first image query and the first text query of ConVIRT, with what they found."""
    import numpy as np

    from convirt.gallery import Row

    label = store.records["label"].to_numpy(str)
    ours = {s.direction: s for s in searches if s.encoder == "convirt"}

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
