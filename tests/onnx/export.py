#!/usr/bin/env python3
"""export.py OUT: the official ONNX backend cases of the installed onnx package as folders that `octet verify` reads:
OUT/<kind>/<name>/{model.onnx, tol, test_data_set_<i>/{input,output}_<j>.pb}; tol holds rtol and atol.
Needs onnx==1.23.2 (numpy and ml_dtypes come with it)."""
import os
import shutil
import sys
import warnings

import numpy as np
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

KINDS = ['node', 'simple', 'pytorch-operator', 'pytorch-converted']


def message(value, kind, name):
    """A value as the protobuf message its declared type asks for."""
    if isinstance(value, TensorProto):
        named = TensorProto()
        named.CopyFrom(value)
        named.name = name
        return named
    which = kind.WhichOneof('value')
    if which == 'sequence_type':
        return numpy_helper.from_list(value, name)
    if which == 'optional_type':
        return numpy_helper.from_optional(value, name)
    if which == 'map_type':
        return numpy_helper.from_dict(value, name)
    return numpy_helper.from_array(np.asarray(value), name)


def write_values(folder, prefix, values, infos):
    for j, (value, info) in enumerate(zip(values, infos)):
        with open(f'{folder}/{prefix}_{j}.pb', 'wb') as f:
            f.write(message(value, info.type, info.name).SerializeToString())


def write_case(case, folder):
    os.makedirs(folder, exist_ok=True)
    if case.model is None:  # a case that ships as files
        shutil.copytree(case.model_dir, folder, dirs_exist_ok=True)
    else:
        with open(f'{folder}/model.onnx', 'wb') as f:
            f.write(case.model.SerializeToString())
        for i, (inputs, outputs) in enumerate(case.data_sets):
            os.makedirs(f'{folder}/test_data_set_{i}', exist_ok=True)
            write_values(f'{folder}/test_data_set_{i}', 'input', inputs, case.model.graph.input)
            write_values(f'{folder}/test_data_set_{i}', 'output', outputs, case.model.graph.output)
    with open(f'{folder}/tol', 'w') as f:
        f.write(f'{case.rtol} {case.atol}\n')


def main(out):
    warnings.filterwarnings('ignore')
    cases = [(kind, case) for kind in KINDS for case in load_model_tests(kind=kind)]
    for kind, case in cases:
        write_case(case, f'{out}/{kind}/{case.name}')
    print(f'{len(cases)} cases')


if __name__ == '__main__':
    main(sys.argv[1])
