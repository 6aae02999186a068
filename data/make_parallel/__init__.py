"""The program that wrote parallel.tsv and nouns.tsv: python -m data.make_parallel

lexicon    the words
grammar    one sentence in English, French and Korean
patterns   the kinds of sentence
sampling   random choice, and what training never shows
"""
