"""The pictures of the tables' page as PNG bytes, and which of them may leave the machine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convirt.errors import InputError
from convirt.results import paper
from convirt.results.markdown import data_name
from convirt.results.summary import run_key
from stages._results import there
from stages._table_inputs import setting_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convirt.results.html import Picture
    from convirt.results.table_layout import Grid
    from convirt.store import Store
    from stages._stage import Stage
    from stages._table_cells import Measured

MAP_SYSTEMS = ("imagenet", "convirt")  # of Figure 3
PROBED, FRACTION = "chexpert", 1  # of Figure 4


@dataclass
class Drawn:
    """What was drawn.

    Attributes:
        grids: Tables with at least one measured cell.
        pictures: Figures, in the order of the page.
        public: PNG bytes by name; they show nothing of a patient.
        private: Likewise, but showing images of given data.
        absent: Tables and figures that the parameters do not ask for, and parameters that would.
    """

    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    public: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, bytes] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def add(self, key: str, title: str, figure: Figure, caption: str, alt: str) -> None:
        """Add a figure that shows no image of a patient."""
        from convirt.results.html import Picture, size_of

        png = self.public[key] = _png(figure)
        self.pictures.append(Picture(key, title, caption, alt, png, size_of(png)))


def draw(stage: Stage, measured: Measured, made_up: frozenset[str]) -> Drawn:
    """Draw every table and figure for which something was measured.

    Raises:
        InputError: A file that one of them needs is missing.
    """
    from convirt.store import Store

    p = stage.params
    drawn = Drawn()
    _tables(drawn, stage, measured, made_up)
    where = Path("data") / "stores" / p.retrieval.dataset
    store = Store.open(stage.root / where)
    if "role" not in store.records:
        hint = "name a retrieval set in retrieval.dataset"
        raise InputError(where, "a retrieval set", f"a store of kind {store.meta['kind']}", hint)
    searched = data_name([p.retrieval.dataset], made_up)
    _embeddings(drawn, stage, store, searched)
    probed = data_name([p.retrieval.dataset, PROBED], made_up)
    _saliency(drawn, stage, store, probed, p.retrieval.dataset in made_up)
    along = [p.ablation.corpus, p.ablation.task, p.retrieval.dataset]
    _trajectory(drawn, measured, data_name(along, made_up))
    _curves(drawn, measured, data_name(p.corpora, made_up))
    return drawn


def _tables(drawn: Drawn, stage: Stage, measured: Measured, made_up: frozenset[str]) -> None:
    from convirt.results import table_layout, table_plots

    p, cells = stage.params, measured.cells
    tasks = data_name(p.matrix.task, made_up)
    searched = data_name([p.retrieval.dataset], made_up)
    both = data_name([p.retrieval.dataset, *p.matrix.task], made_up)
    varied = data_name([p.retrieval.dataset, p.ablation.task], made_up)
    prompted = data_name(p.zeroshot.task, made_up)
    own = p.ablation.objective
    grids = [
        (table_layout.transfer(cells, "linear"), tasks, "matrix.protocol: [linear]"),
        (table_layout.transfer(cells, "finetune"), tasks, "matrix.protocol: [finetune]"),
        (table_layout.retrieval(cells), searched, "retrieval.systems"),
        (table_layout.image_only(cells), both, "matrix.fraction: [1], linear"),
        (table_layout.settings(cells, setting_columns(p), own), varied, "ablation.variants"),
        (table_layout.zeroshot(cells), prompted, "zeroshot.task, zeroshot.system"),
    ]
    for grid, data, what in grids:
        if not grid.measured():
            drawn.absent.append(f"{grid.title.partition(':')[0]} ({what})")
            continue
        against = "the default" if grid.key == "table4" else grid.against
        grid = replace(grid, data=data, against=against)
        drawn.grids.append(grid)
        drawn.public[grid.key] = _png(table_plots.table(grid))


def _embeddings(drawn: Drawn, stage: Stage, store: Store, data: str) -> None:
    """Figure 3."""
    import numpy as np

    from convirt import checkpoint, embedding_map
    from convirt.results import figure_plots

    p = stage.params
    systems = [s for s in MAP_SYSTEMS if s in p.retrieval.systems]
    label = store.records["label"].to_numpy(str)
    candidate = store.records["role"].to_numpy(str) == "candidate"
    rows = np.flatnonzero(candidate & np.isin(label, paper.FIGURE_3))
    if not systems or not len(rows):
        needs = "imagenet or convirt in retrieval.systems, and a set with the paper’s five classes"
        drawn.absent.append(f"Figure 3 ({needs})")
        return
    order = {name: i for i, name in enumerate(paper.FIGURE_3)}
    rows = rows[np.argsort([order[name] for name in label[rows]], kind="stable")]
    maps, purity = {}, {}
    for system in systems:
        name = f"data/retrieval/{system}/embeddings.safetensors"
        h = checkpoint.load_safetensors(there(stage.root, name, f"retrieve@{system}"))["h"].numpy()
        if len(h) != len(label):
            found, hint = f"{len(h)} vectors", f"dvc repro -f retrieve@{system}"
            raise InputError(name, f"one vector for each of {len(label)} images", found, hint)
        maps[system] = embedding_map.tsne(h[rows], p.seed)
        purity[system] = embedding_map.purity(h[rows], label[rows])
        stage.poll()
    drawn.add(
        "figure3",
        "Figure 3: image embeddings of five classes",
        figure_plots.embeddings(maps, label[rows], purity, data),
        f"t-SNE (perplexity 30, unit vectors, seed {p.seed}) of the {len(rows):,} candidates of "
        "the paper’s five classes. A better encoder clusters each class; distances between groups "
        "and group sizes mean nothing. The share in the title is computed in the full space.",
        "; ".join(f"{s}: {100 * purity[s]:.0f}% of neighbours of the same class" for s in systems),
    )


def _saliency(drawn: Drawn, stage: Stage, store: Store, data: str, made_up: bool) -> None:
    """Figure 4; images of patients stay out of metrics/ and of the page."""
    import numpy as np
    import torch

    from convirt import image_encoder, saliency
    from convirt.results import figure_plots
    from convirt.results.html import Picture

    matrix = stage.params.matrix
    systems = [s for s in paper.FIGURE_4_SYSTEMS if s in matrix.init]
    asked = PROBED in matrix.task and FRACTION in matrix.fraction and "linear" in matrix.protocol
    chosen = saliency.samples(store.records, paper.FIGURE_4)
    if not (systems and asked and chosen):
        any_of = ", ".join(paper.FIGURE_4_SYSTEMS)
        needs = f"chexpert, 1%, linear in matrix, with one of {any_of}"
        needs += ", and a retrieval set with the figure’s classes"
        drawn.absent.append(f"Figure 4 ({needs})")
        return
    images = torch.from_numpy(np.stack([store.images[row] for row in chosen.values()]))
    maps = {}
    for system in systems:
        key = run_key(PROBED, system, FRACTION, "linear")
        folder = stage.root / "models" / "finetune" / key
        hint = f"dvc repro finetune@{key}"
        model, config, labels = saliency.load_probe(stage.root, folder, hint)
        lacking = sorted(set(chosen) - set(labels))
        if lacking:
            hint = "name them in tasks.chexpert.labels"
            raise InputError(folder, f"the labels {', '.join(chosen)}", f"no {lacking[0]}", hint)
        columns = torch.tensor([labels.index(kind) for kind in chosen])
        maps[system] = saliency.saliency(model, image_encoder.to_input(images, config), columns)
    shown = {kind: store.images[row] for kind, row in chosen.items()}
    figure = figure_plots.saliency(shown, maps, data)
    title = "Figure 4: what the linear probes look at"
    caption = (
        "Absolute gradient of the class’s logit by pixel, the largest over the channels (Simonyan "
        "et al. 2014), each map on its own scale; probes trained on 1% of CheXpert. The image is "
        "the first image query of each class in the list, not a chosen one."
    )
    if made_up:
        drawn.add("figure4", title, figure, caption, "saliency maps beside the images")
        return
    drawn.private["figure4"] = _png(figure)
    aside = " It shows images of the given data, so it is only in data/tables/figure4.png."
    drawn.pictures.append(Picture("figure4", title, caption + aside))


def _trajectory(drawn: Drawn, measured: Measured, data: str) -> None:
    """Figure 5."""
    from convirt.results import figure_plots

    if not measured.states:
        drawn.absent.append("Figure 5 (ablation.trajectory and train.keep_every)")
        return
    known = [row for row in measured.correlations if row["pearson"] is not None]
    told = "; ".join(
        f"{row['objective']}, {figure_plots.SCORES[row['score']]}: r = {row['pearson']:.2f}"
        + ("" if row["paper"] is None else f" (paper {row['paper']:.2f})")
        for row in known
    )
    drawn.add(
        "figure5",
        "Figure 5: pretraining loss against downstream scores",
        figure_plots.trajectory(measured.states, measured.correlations, data),
        "Each point is a state kept during pretraining. Pearson’s r of minus the validation loss "
        f"and the score: {told or 'not defined'}. The paper’s values are read off its figure. The "
        "points of one run are not an independent sample, so no interval is given.",
        told,
    )


def _curves(drawn: Drawn, measured: Measured, data: str) -> None:
    from convirt.results import figure_plots

    if not measured.curves:
        drawn.absent.append("Curves (objectives)")
        return
    drawn.add(
        "curves",
        "Curves: the pretraining of every objective",
        figure_plots.curves(measured.curves, data),
        "The validation criterion of each objective over its steps; the mark is the state that is "
        "kept. Losses of different objectives are on different scales and cannot be compared.",
        "validation curves of " + ", ".join(measured.curves),
    )


def _png(figure: Figure) -> bytes:
    from convirt.results import plots

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        plots.save(figure, path)
        return path.read_bytes()
