"""The named reactions, with their guards and their textbook conditions."""

from dataset_builders.sources.starter.catalogue import acyl, carbonyl, palladium, redox, substitution

TEMPLATES = (
    *acyl.TEMPLATES,
    *substitution.TEMPLATES,
    *palladium.TEMPLATES,
    *carbonyl.TEMPLATES,
    *redox.TEMPLATES,
)
