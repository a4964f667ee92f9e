"""Speed against the peers: cases.py what is measured, peers.py and variants.py by what, measure.py how."""
