"""Make a page of each notebook, with the outputs that are kept in it, and offer the notebook."""

from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parents[2] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, with its figures and itself beside it."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.language_info = {"name": "python"}  # by which code is highlighted
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        )
        text += f"\n\n[Download this notebook]({path.name})\n"
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
        for place, figure in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{place}", content=figure))
    return files
