"""The publisher's files are not at hand: these tests write small ones in its layout."""

import gzip
import json

import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.pubchemqc import SOURCE, energy_unit, read

WATER = {
    "cid": 962,
    "state": "S0",
    "pubchem-isomeric-smiles": "O",
    "atomic-numbers": [8, 1, 1],
    "total-energy": -76.40893,
    "energy-alpha-homo": -7.9,
}


def written(folder, *entries):
    path = folder / SOURCE.name / "000000001-000253696.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize(
    ("energy", "text"),
    [
        (-76.40893, "The SCF Energy for the input molecule is -76.4089 Hartree."),
        (-2079.1927, "The SCF Energy for the input molecule is -2079.1927 eV."),
    ],
)
def test_the_energy_keeps_its_unit_and_the_answer_names_it(tmp_path, energy, text):
    path = written(tmp_path, WATER | {"total-energy": energy})
    (record,) = read(path)
    assert SOURCE.present(tmp_path) == [path]
    assert (record.task, record.text, record.molecules) == ("scf_energy", text, {"molecule": "O"})
    assert (record.publisher_id, record.split, record.place) == ("962", "", "1")


@pytest.mark.parametrize(  # total energies of closed-shell molecules at common levels, Hartree, to the last unit given
    ("atomic_numbers", "hartree"),
    [
        ([1, 1], -1.175),
        ([6, 1, 1, 1, 1], -40.52),
        ([7, 7], -109.52),
        ([6] * 6 + [1] * 6, -232.25),
        ([17, 17], -920.35),
        ([35, 35], -5147.0),
    ],
)
def test_real_energies_are_told_apart(atomic_numbers, hartree):
    assert energy_unit(hartree, atomic_numbers) == "Hartree"
    assert energy_unit(hartree * 27.211386, atomic_numbers) == "eV"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"total-energy": None}, "the answer is not a number"),
        ({"total-energy": "-"}, "the answer is not a number"),
        ({"total-energy": 76.4}, "the energy is that of these atoms neither in Hartree nor in eV"),
        ({"total-energy": -200.0}, "the energy is that of these atoms neither in Hartree nor in eV"),
        ({"total-energy": -47948.0}, "the energy is that of these atoms neither in Hartree nor in eV"),  # kcal/mol
        ({"atomic-numbers": None}, "no atomic-numbers, by which the unit of the energy is told"),
        ({"pubchem-isomeric-smiles": ""}, "pubchem-isomeric-smiles is missing, blank or not text"),
        ({"state": "T0"}, "not the ground state"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_with_the_reason(tmp_path, changes, reason):
    dropped, kept = read(written(tmp_path, WATER | changes, WATER))
    assert dropped == Drop("scf_energy", "1", reason)
    assert kept.place == "2"


def test_what_is_no_object_is_dropped_and_a_cut_file_named(tmp_path):
    path = written(tmp_path, [1], WATER)
    assert next(read(path)) == Drop("scf_energy", "1", "the record is not a JSON object")
    packed = path.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(path.read_bytes())[:-12])
    with pytest.raises(ValueError, match=r"000253696\.json\.gz: its compressed data ends or breaks after record"):
        list(read(packed))
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"000253696\.json: not JSON, or cut short, after record 1"):
        list(read(path))
