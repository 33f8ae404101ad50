"""The generated stubs of proto/fresco/v1: image_generation_pb2, operations_pb2, and *_pb2_grpc. They are made when the package is built."""
