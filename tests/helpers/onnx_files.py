"""Small ONNX files made by hand."""

from onnx import TensorProto, helper

from app.export_bundle.driver import OUTPUTS


def make_graph(operation="Relu", domain="", external=None, outputs=OUTPUTS, dtype=1, place="initializer"):
    """Bytes of a small model that gives its input, plus zeros, for every output.

    With ``external``, the zeros are in that file; ``place`` says where the graph names it: "initializer", "constant" or
    "sparse".
    """
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [2], [0.0, 0.0])
    if external is not None:
        zeros = TensorProto(name="zeros", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", external), ("offset", 0), ("length", 8)):
            zeros.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node(operation, ["floats"], ["same"], domain=domain)]
    nodes += [helper.make_node("Add", ["same", "zeros"], [name]) for name in outputs]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in outputs]
    if place == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["zeros"], value=zeros))
    start = [helper.make_tensor_value_info("floats", dtype, ["batch", 2])]
    graph = helper.make_graph(nodes, "g", start, ends, [zeros] if place == "initializer" else [])
    if place == "sparse":
        indices = helper.make_tensor("indices", TensorProto.INT64, [2], [0, 1])
        graph.sparse_initializer.add(values=zeros, indices=indices, dims=[2])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
