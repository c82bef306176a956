"""
Serve a classifier with FastAPI
===============================

This service answers requests over HTTP. It collects the texts of requests that arrive within a few
milliseconds, predicts all of them in one call, and gives each request its own rows. One worker
thread predicts, so the event loop is free to accept requests in the meantime.

Install the packages, start the service, and send it texts::

    pip install "skbert[offline]" fastapi uvicorn
    uvicorn serve_fastapi:app --app-dir examples
    curl localhost:8000/predict --json '{"texts": ["The staff was friendly."]}'
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from skbert import BertSentimentClassifier

MOST_TEXTS = 64  # in one call, unless a single request has more
WAIT_SECONDS = 0.005  # for more requests, after the first one

# %%
# Collect concurrent requests
# ---------------------------
# While a call computes, requests wait in the queue, so under load the calls become larger by
# themselves. `WAIT_SECONDS` is what a request may wait for others when nothing else is computed.


@dataclass
class Waiting:
    """Texts of one request, and the future that gets their rows."""

    texts: list[str]
    rows: asyncio.Future[np.ndarray]


class Batcher:
    """Predicts the texts of several requests in one call, in a thread of its own."""

    def __init__(
        self,
        predict: Callable[[list[str]], np.ndarray],
        most_texts: int = MOST_TEXTS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.predict, self.most_texts, self.wait_seconds = predict, most_texts, wait_seconds
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()

    async def answer(self, texts: list[str]) -> np.ndarray:
        """Wait for the rows of some texts."""
        rows = asyncio.get_running_loop().create_future()
        await self.queue.put(Waiting(texts, rows))
        return await rows

    async def run(self) -> None:
        """Predict batch after batch, until the task is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1) as pool:
            while True:
                batch = await self.collect()
                texts = [text for request in batch for text in request.texts]
                try:
                    rows = await loop.run_in_executor(pool, self.predict, texts)
                except Exception as error:  # each request of the batch fails, the service does not
                    self.fail(batch, error)
                else:
                    self.distribute(batch, rows)

    async def collect(self) -> list[Waiting]:
        """Wait for a request, and a little longer for more of them."""
        batch = [await self.queue.get()]
        end = asyncio.get_running_loop().time() + self.wait_seconds
        try:
            async with asyncio.timeout_at(end):
                while sum(len(request.texts) for request in batch) < self.most_texts:
                    batch.append(await self.queue.get())
        except TimeoutError:
            pass
        return batch

    def distribute(self, batch: list[Waiting], rows: np.ndarray) -> None:
        """Give each request its rows."""
        ends = np.cumsum([len(request.texts) for request in batch])[:-1]
        for request, own in zip(batch, np.split(rows, ends), strict=True):
            if not request.rows.done():  # the client may have gone
                request.rows.set_result(own)

    def fail(self, batch: list[Waiting], error: Exception) -> None:
        """Raise the error in each request."""
        for request in batch:
            if not request.rows.done():
                request.rows.set_exception(error)


# %%
# Answer over HTTP
# ----------------
# pydantic refuses a request that is too large, or has no texts, before it can reach a batch.


class Question(BaseModel):
    """The body of a request."""

    texts: list[Annotated[str, Field(max_length=10_000)]] = Field(min_length=1, max_length=256)


class Answer(BaseModel):
    """The most probable label of a text."""

    label: str
    probability: float


def create_app(load: Callable[[], Any]) -> FastAPI:
    """Create a service of the classifier that `load` returns."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        clf = load()
        clf.predict(["ready"])  # warm up
        app.state.labels = [str(label) for label in clf.classes_]
        app.state.batcher = Batcher(clf.predict_proba)
        task = asyncio.create_task(app.state.batcher.run())
        yield
        task.cancel()

    app = FastAPI(title="Sentiment", lifespan=lifespan)

    @app.post("/predict")
    async def predict(question: Question, request: Request) -> list[Answer]:
        state = request.app.state
        rows = await state.batcher.answer(question.texts)
        return [
            Answer(label=state.labels[row.argmax()], probability=float(row.max())) for row in rows
        ]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ready"}

    return app


app = create_app(lambda: BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment"))
