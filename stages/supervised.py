"""An encoder taken from a fine-tuned transfer run, for further transfers or retrieval."""

from __future__ import annotations

from pathlib import Path

import typer

from convirt import files
from convirt.errors import InputError
from stages._stage import PARAMS, Stage

READS = ["finetuned.{name}"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: str = typer.Argument(help="A key of finetuned, such as convirt_supervised."),
    params: Path = PARAMS,
) -> None:
    """Take the head off a fine-tuned classifier and keep the encoder, weight for weight.

    Reads models/finetune/<finetuned.NAME>. Writes models/encoders/NAME/<corpus of that run>:
    image_encoder.safetensors and config.json, as every encoder has them.
    """
    with Stage(__file__, reads=READS, names={"name": name}, params=params) as stage:
        from convirt import checkpoint, classifier

        run = stage.params.finetuned[name]
        encoder, config = classifier.encoder_of(stage.root / "models" / "finetune" / run)
        corpus = config["corpus"]
        if not isinstance(corpus, str):
            raise InputError(
                f"params.yaml: finetuned.{name}",
                "a run that starts from an encoder that was pretrained on a corpus",
                run,
                "name a run of an objective",
            )
        stage.confirm()
        with files.fresh_directory(stage.root / "models" / "encoders" / name) as folder:
            path = folder / corpus / "image_encoder.safetensors"
            checkpoint.save_safetensors(path, encoder.state_dict())
            about = {key: config.get(key) for key in ("task", "init", "fraction", "corpus")}
            made = {"image": config["image"], "finetuned": {"run": run, **about}}
            files.write_json(folder / corpus / "config.json", made)


if __name__ == "__main__":
    app()
