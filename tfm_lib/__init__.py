"""The Transformer from first principles: the pieces that the notebooks build, in rooms by concept.

Nothing is imported here, so that `import tfm_lib` costs nothing: take what a lesson needs from its
package, as in `from tfm_lib.attention import MultiHeadAttention`.
"""

__version__ = "0.1.0"
