"""Cards of published models and datasets: the templates, and what fills the model's."""
