"""Read a mapping file: YAML to nodes, nodes to models, models to a mapping."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.mapping_files.complaints import complaints
from weighbridge.mappings.mapping_files.documents import Document, document_of, one_error, open_document
from weighbridge.mappings.mapping_files.includes import Includes
from weighbridge.mappings.mapping_files.mapping_forms import MappingForm
from weighbridge.mappings.mapping_files.nodes import data_of, read_nodes
from weighbridge.mappings.mapping_files.rule_building import Builder


def read_file(path: Path) -> Mapping:
    """Read a YAML file, with what it includes.

    Raises:
        WeighbridgeError: As `weighbridge.load_mapping`.
    """
    return _read_file(path, Includes(_read_file))


def read_text(text: str) -> Mapping:
    """Read the text of a YAML file, which may include registered mappings, but no files.

    Raises:
        WeighbridgeError: As `weighbridge.load_mapping`.
    """
    return _read_document(document_of(text), Includes(_read_file))


def _read_file(path: Path, includes: Includes) -> Mapping:
    return _read_document(open_document(path), includes.of(path))


def _read_document(document: Document, includes: Includes) -> Mapping:
    root = read_nodes(document)
    try:
        form = MappingForm.model_validate(data_of(root))
    except ValidationError as refused:
        raise one_error(document, complaints(document, root, refused)) from None
    builder = Builder(document, includes)
    mapping = builder.build(form, root)
    if mapping is None:
        raise one_error(document, builder.problems)
    return mapping
