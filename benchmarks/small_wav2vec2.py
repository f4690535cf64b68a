"""A small wav2vec 2.0 to begin from: the packaged tiny teacher, a WavLM, without its relative positions.

    python benchmarks/small_wav2vec2.py runs/small_wav2vec2

What both architectures have keeps the teacher's weights; what only WavLM has, the position bias of its attention, is
left out. The result is no copy of the teacher, but a far better start for fine-tuning than random weights.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMModel

from secateur.compress.run_context import TINY_MODEL, model_path

EXTRACTOR = "preprocessor_config.json"


def small_wav2vec2(source: str = TINY_MODEL) -> Wav2Vec2Model:
    """A wav2vec 2.0 with the weights of a WavLM, in all that they share.

    Args:
        source: A folder with a WavLM model, or the packaged teacher.
    """
    teacher = WavLMModel.from_pretrained(model_path(source))
    known_names = Wav2Vec2Config().to_dict().keys() - {"model_type", "architectures"}
    fields = {name: value for name, value in teacher.config.to_dict().items() if name in known_names}
    model = Wav2Vec2Model(Wav2Vec2Config(**fields))
    names = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in teacher.state_dict().items() if name in names})
    model.eval()
    return model


def write(folder: str | Path) -> Path:
    """The small model as a folder, with the teacher's feature extractor; one that is there stays."""
    folder = Path(folder)
    if not (folder / EXTRACTOR).is_file():
        small_wav2vec2().save_pretrained(folder)
        shutil.copy(Path(model_path(TINY_MODEL)) / EXTRACTOR, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    print(write(parser.parse_args().out))


if __name__ == "__main__":
    main()
