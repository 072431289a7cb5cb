"""Small ONNX files made by hand."""

from onnx import TensorProto, helper

from app.export_bundle.driver import OUTPUTS


def make_graph(operation="Relu", domain="", external=None, outputs=OUTPUTS, dtype=1):
    """Bytes of a small model that gives its input, plus zeros, for every output."""
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [2], [0.0, 0.0])
    if external is not None:
        zeros = TensorProto(name="zeros", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        entry = zeros.external_data.add()
        entry.key, entry.value = "location", str(external)
    nodes = [helper.make_node(operation, ["floats"], ["same"], domain=domain)]
    nodes += [helper.make_node("Add", ["same", "zeros"], [name]) for name in outputs]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in outputs]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("floats", dtype, ["batch", 2])], ends, [zeros])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
