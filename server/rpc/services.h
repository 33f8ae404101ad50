// The services of fresco.v1: what is answered at once is answered here; what draws has a reactor of its own.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "fresco/v1/image_generation.grpc.pb.h"
#include "fresco/v1/operations.grpc.pb.h"
#include "server/auth/authenticator.h"
#include "server/rpc/server.h"

namespace fresco {

// What holds texts comes as bytes: wire_bytes.h.
using ImageGenerationByBytes = v1::ImageGeneration::WithRawCallbackMethod_Generate<
    v1::ImageGeneration::WithRawCallbackMethod_CreateImage<v1::ImageGeneration::WithRawCallbackMethod_Cancel<
        v1::ImageGeneration::WithCallbackMethod_ListModels<v1::ImageGeneration::Service>>>>;

class ImageGenerationService final : public ImageGenerationByBytes {
 public:
  ImageGenerationService(const RpcOptions& options, const RpcDependencies& environment)
      : options_(options), environment_(environment) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* CreateImage(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;

 private:
  const RpcOptions& options_;
  const RpcDependencies& environment_;
};

class OperationsService final : public v1::Operations::CallbackService {
 public:
  // `on_drain` is called whenever the registry has been set to draining.
  OperationsService(const RpcOptions& options, const RpcDependencies& environment, std::function<void()> on_drain)
      : options_(options),
        environment_(environment),
        on_drain_(std::move(on_drain)),
        started_(environment.clock->Now()),
        started_at_(environment.clock->WallTime()) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context, const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context, const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override;
  grpc::ServerWriteReactor<v1::ProfileResponse>* Profile(grpc::CallbackServerContext* context,
                                                         const v1::ProfileRequest* request) override;

 private:
  // Logs that the caller has done something that others feel.
  void Audit(std::string_view event, const grpc::CallbackServerContext& context, const Caller& caller,
             LogFields fields) const;

  const RpcOptions& options_;
  const RpcDependencies& environment_;
  const std::function<void()> on_drain_;
  const absl::Time started_;
  const absl::Time started_at_;  // by the wall's clock
};

}  // namespace fresco
