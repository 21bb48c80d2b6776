// What the servers of GraphQL serve.
import { GraphQLObjectType, GraphQLNonNull, GraphQLSchema, GraphQLString, GraphQLInt } from 'graphql'

export const schema = new GraphQLSchema({
  query: new GraphQLObjectType({
    name: 'Query',
    fields: { echo: { type: GraphQLString, args: { text: { type: GraphQLString } }, resolve: (_, { text }) => text } }
  }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: {
      count: {
        type: GraphQLInt,
        args: { to: { type: new GraphQLNonNull(GraphQLInt) } },
        subscribe: async function * (_, { to }) { for (let i = 1; i <= to; i++) yield { count: i } }
      },
      wait: { // once, and no more
        type: GraphQLInt,
        subscribe: async function * () { yield { wait: 1 }; await new Promise(() => {}) }
      }
    }
  })
})
