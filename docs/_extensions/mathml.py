"""Formulas as MathML, which browsers lay out by themselves: no script, no font, no picture, no network.

docutils has the converter.  It takes most of LaTeX; what it does not know is an error of the build.
"""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def inline(writer: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(_converted(node.astext(), node, as_block=False))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """Write a formula of its own line."""
    writer.body.append(f'<div class="formula">{_converted(node.astext(), node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _converted(formula: str, node: nodes.Node, *, as_block: bool) -> str:
    try:
        return tex2mathml(formula, as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"{node.source}:{node.line}: no MathML for {formula!r}: {error}") from error


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the renderer by the name `mathml`."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
