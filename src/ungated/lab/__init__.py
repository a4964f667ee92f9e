"""The lab: data, tasks, training, studies and reports; installed with `pip install "ungated[lab]"`."""
