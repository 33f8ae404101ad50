-- See openai.lua, /v1/fresco/generate: towards the transcoder the request is of JSON again, and towards grpc_web the answer one of gRPC,
-- which it would otherwise take for a failure and collect.
local function is_event_stream(handle)
  local call = handle:streamInfo():dynamicMetadata():get("fresco.edge")
  return call ~= nil and call.kind == "events"
end

function envoy_on_request(handle)
  if is_event_stream(handle) then handle:headers():replace("content-type", "application/json") end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") == "200" and is_event_stream(handle) then headers:replace("content-type", "application/grpc") end
end
