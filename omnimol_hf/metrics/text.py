"""Scores of prose: BLEU, ROUGE and METEOR.

`strict` splits into words and punctuation marks (`nltk.wordpunct_tokenize`), so that scores do not depend on a model's
tokenizer; an empty answer scores 0 and control tokens are removed first. `paper` splits into the pieces of the model's
own tokenizer, at most 512, as the authors do, and leaves a control token that is still in the answer where it is:
ROUGE then counts its letters as words. An empty answer gets no treatment of its own there.

Both: corpus BLEU without smoothing, in `strict` as sacrebleu and in `paper` as nltk computes it; ROUGE F-measures as
`rouge_score` without a stemmer; METEOR of nltk without WordNet. The fields `variant` say which tokens were compared.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np
from nltk import wordpunct_tokenize
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz.distance import LCSseq
from rouge_score.tokenize import tokenize as rouge_words

from omnimol_hf.metrics.bootstrap import Metric, mean_metric

Tokenize = Callable[[str], list[str]]

METEOR_VARIANT = "exact and Porter-stem matches, no WordNet synonyms"
PAPER_MAX_PIECES = 512
_CONTROL_TOKEN = re.compile(r"<\|[^|<>]*\|>")
_STEMMER = SimpleNamespace(stem=lru_cache(maxsize=1 << 16)(PorterStemmer().stem))
_NO_SYNONYMS = SimpleNamespace(synsets=lambda word: [])
MODEL_TOKENIZER = "the model's tokenizer"
_CACHED = 1 << 15
ROUGE = ("rouge-1", "rouge-2", "rouge-l")


def without_control_tokens(text: str) -> str:
    """`text` without tokens such as `<|eot_id|>` and without white space around it."""
    return _CONTROL_TOKEN.sub("", text).strip()


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU from summed counts: matches and totals of each n, then both lengths. `(..., 2N + 2) -> (...)`.

    The geometric mean is taken over those n of which there are any n-grams.
    """
    order = sums.shape[-1] // 2 - 1
    matches, totals = sums[..., :order], sums[..., order : 2 * order]
    length, reference_length = sums[..., -2], sums[..., -1]
    there = totals > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.where(there, np.log(matches / totals), 0.0).sum(axis=-1) / there.sum(axis=-1)
        brevity = np.minimum(0.0, 1.0 - reference_length / length)
        value = np.exp(logarithms + brevity)
    return np.where(there.any(axis=-1) & (length > 0), value, 0.0)


def _ngram_sums(prediction: Sequence[str], reference: Sequence[str], order: int, least: int) -> list[int]:
    """Of one row: matches and totals of n = 1 .. order, then both lengths."""
    counts = [max(0, len(prediction) - n + 1) for n in range(1, order + 1)]
    if prediction == reference:
        matches = counts
    else:
        matches = [(_ngrams(prediction, n) & _ngrams(reference, n)).total() for n in range(1, order + 1)]
    return [*matches, *(max(least, count) for count in counts), len(prediction), len(reference)]


def bleu_metric(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    order: int,
    least: int,
    counts: np.ndarray | None = None,
    misses: Mapping[str, int] | None = None,
    variant: str | None = None,
) -> Metric:
    """Corpus BLEU up to n-grams of length `order`, with one reference a row and no smoothing.

    Args:
        predictions, references: Tokens of each row (a string is a sequence of characters).
        least: What a row too short for any n-gram adds to their total number: 0 as in sacrebleu (with
            `effective_order`), so that the right answer always scores 1; 1 as in nltk.
        counts: Bool, shape `(n_rows,)`; rows where it is false are left out.
    """
    counts = np.ones(len(predictions), dtype=bool) if counts is None else counts
    sums = np.zeros((len(predictions), 2 * order + 2))
    for row in np.flatnonzero(counts):
        sums[row] = _ngram_sums(predictions[row], references[row], order, least)
    return Metric(sums, _bleu, n=int(counts.sum()), misses=misses or {}, variant=variant)


def _shorter_bleu(metric: Metric, order: int) -> Metric:
    """BLEU of a smaller order from the same counts."""
    longest = metric.sums.shape[1] // 2 - 1
    columns = [*range(order), *range(longest, longest + order), -2, -1]
    return replace(metric, sums=metric.sums[:, columns])


def _f_measure(matches: int, answered: int, expected: int) -> float:
    return 2 * matches / (answered + expected) if matches else 0.0


@lru_cache(maxsize=_CACHED)
def rouge(answer: str, reference: str) -> tuple[float, float, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures of one answer, equal to those of `rouge_score` without a stemmer."""
    found, expected = rouge_words(answer, None), rouge_words(reference, None)
    pairs = ((_ngrams(found, n), _ngrams(expected, n)) for n in (1, 2))
    overlaps = (_f_measure((a & b).total(), a.total(), b.total()) for a, b in pairs)
    return *overlaps, _f_measure(LCSseq.similarity(found, expected), len(found), len(expected))


def _rouge_metrics(
    predictions: Sequence[str], references: Sequence[str], misses: Mapping[str, int]
) -> dict[str, Metric]:
    values = np.array([rouge(*texts) for texts in zip(predictions, references, strict=True)])
    return {name: mean_metric(values[:, column], misses=misses) for column, name in enumerate(ROUGE)}


def _token_metrics(
    predictions: list[list[str]],
    references: list[list[str]],
    least: int,
    misses: Mapping[str, int],
    tokens: str,
    meteor: bool,
) -> dict[str, Metric]:
    bleu = bleu_metric(predictions, references, 4, least, misses=misses, variant=tokens)
    metrics = {"bleu-2": _shorter_bleu(bleu, 2), "bleu-4": bleu}
    if meteor:
        score = partial(single_meteor_score, stemmer=_STEMMER, wordnet=_NO_SYNONYMS)
        values = [score(reference, answer) for answer, reference in zip(predictions, references, strict=True)]
        metrics["meteor"] = mean_metric(values, misses=misses, variant=f"{METEOR_VARIANT}; {tokens}")
    return metrics


def text_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    words: Tokenize = wordpunct_tokenize,
    meteor: bool = True,
) -> dict[str, Metric]:
    """`strict`: `bleu-2`, `bleu-4`, `rouge-1`, `rouge-2`, `rouge-l` and `meteor` of every row."""
    predictions = [without_control_tokens(text) for text in predictions]
    empty = sum(not text for text in predictions)
    misses = {"empty": empty} if empty else {}
    tokens = "words split at white space" if words is str.split else "words and punctuation marks (nltk wordpunct)"
    return {
        **_token_metrics([*map(words, predictions)], [*map(words, references)], 0, misses, tokens, meteor),
        **_rouge_metrics(predictions, references, misses),
    }


def paper_text_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    tokenize: Tokenize | None,
    meteor: bool = True,
    tokenizer_name: str = MODEL_TOKENIZER,
) -> dict[str, Metric]:
    """`paper`: the same scores on the pieces of the model's tokenizer; without one, ROUGE alone."""
    metrics = _rouge_metrics(predictions, references, {})
    if tokenize is None:
        return metrics

    def pieces(text: str) -> list[str]:
        return tokenize(_CONTROL_TOKEN.sub("", text))[:PAPER_MAX_PIECES]

    answers, truths = [pieces(text) for text in predictions], [pieces(text) for text in references]
    return {**_token_metrics(answers, truths, 1, {}, f"pieces of {tokenizer_name}", meteor), **metrics}
