r"""
Train on several processes
==========================

``torchrun`` starts this script as several processes, for example one per GPU, and `fit` shares each
batch among them. Every process reads all reviews and ends with the same weights: apart from
rounding, those of a single process. Only the first one, rank 0, shows progress, writes checkpoints,
and saves the model.

With one machine and two processes::

    pip install ".[offline]"
    torchrun --standalone --nproc-per-node=2 examples/distributed/train.py reviews.csv model

On each of two machines with eight GPUs, of which 10.0.0.1 is one (this has not been run)::

    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=10.0.0.1:29500 \
        examples/distributed/train.py reviews.csv model

reviews.csv has the columns "text" and "label", and must be on both machines. ``torchrun`` chooses
which machine has rank 0, so let the model and the checkpoints be on a disk that both share. If the
run is killed, the same command resumes it from the last epoch, also with another number of
processes.
"""

import argparse
import os

import pandas as pd
from sklearn.model_selection import train_test_split

from skbert import BertSentimentClassifier


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune BERT on several processes.")
    parser.add_argument("reviews", help='CSV file with the columns "text" and "label"')
    parser.add_argument("output", help="folder for the fitted classifier")
    parser.add_argument("--model", default="skbert/minilm-sentiment", help="name or folder")
    parser.add_argument("--batch-size", type=int, default=32, help="texts per step, of all ranks")
    parser.add_argument("--max-epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    reviews = pd.read_csv(arguments.reviews)
    train, test = train_test_split(
        reviews, test_size=0.2, random_state=0, stratify=reviews["label"]
    )
    clf = BertSentimentClassifier(
        arguments.model,
        batch_size=arguments.batch_size,
        max_epochs=arguments.max_epochs,
        max_length=arguments.max_length,
        checkpoint_dir=f"{arguments.output}.runs",
        random_state=0,
        verbose=1,
    )
    clf.fit(train["text"], train["label"])
    if int(os.environ.get("RANK", "0")) == 0:
        accuracy = clf.score(test["text"], test["label"])
        print(f"accuracy on {len(test)} reviews: {accuracy:.3f}")
        clf.save_pretrained(arguments.output, scores={"accuracy": accuracy})


if __name__ == "__main__":
    main()
