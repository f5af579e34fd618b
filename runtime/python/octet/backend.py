"""octet.backend - the interface of onnx.backend.base: prepare a ModelProto, run it, or run one node."""
import onnx
import onnx.shape_inference
from onnx import helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from . import InferenceSession


class OctetBackendRep(BackendRep):
    def __init__(self, session):
        self.session = session

    def run(self, inputs, **kwargs):
        args = self.session.get_inputs()
        if isinstance(inputs, dict):
            feeds = inputs
        else:
            feeds = {arg.name: value for arg, value in zip(args, inputs if isinstance(inputs, (list, tuple)) else [inputs])}
        names = [arg.name for arg in self.session.get_outputs()]
        values = self.session.run(None, feeds)
        return namedtupledict("Outputs", names)(*values) if all(names) else tuple(values)


class OctetBackend(Backend):
    @classmethod
    def is_compatible(cls, model, device="CPU", **kwargs):
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        super().prepare(model, device, **kwargs)
        return OctetBackendRep(InferenceSession(model, **kwargs))

    @classmethod
    def run_model(cls, model, inputs, device="CPU", **kwargs):
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node, inputs, device="CPU", outputs_info=None, **kwargs):
        given = [name for name in node.input if name]
        values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        args = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in zip(given, values)]
        results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        for result, info in zip(results, outputs_info or []):
            result.CopyFrom(helper.make_tensor_value_info(result.name, helper.np_dtype_to_tensor_dtype(info[0]), info[1]))
        model = helper.make_model(helper.make_graph([node], "node", args, results))
        if not outputs_info:
            model = onnx.shape_inference.infer_shapes(model)
        return cls.prepare(model, device, **kwargs).run(list(values))

    @classmethod
    def supports_device(cls, device):
        return Device(device).type == DeviceType.CPU


is_compatible = OctetBackend.is_compatible
prepare = OctetBackend.prepare
run_model = OctetBackend.run_model
run_node = OctetBackend.run_node
supports_device = OctetBackend.supports_device
